// Keeps the page current, and says so when it no longer is: an old page must not look like news.
const SECONDS = 4;
const content = document.getElementById("content");
const stale = document.getElementById("stale");
let shown = content.innerHTML;
let since = new Date();

async function refresh() {
  try {
    const response = await fetch(location.href, { cache: "no-store" });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.getElementById("content");
    if (fresh.innerHTML !== shown) show(fresh);
    since = new Date();
    stale.hidden = true;
  } catch {
    stale.textContent = `The node does not answer. This page is as of ${since.toLocaleTimeString()}.`
      + " Run 'overread check', or look at the node's log.";
    stale.hidden = false;
  }
  setTimeout(refresh, SECONDS * 1000);
}

function show(fresh) {
  shown = fresh.innerHTML;
  for (const open of content.querySelectorAll("details[open]")) {
    fresh.querySelector(`#${open.id}`)?.setAttribute("open", "");
  }
  content.replaceChildren(...fresh.childNodes);
}

setTimeout(refresh, SECONDS * 1000);
