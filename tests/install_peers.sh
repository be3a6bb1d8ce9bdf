#!/usr/bin/env bash
# Installs the real peers and validators that the tests talk to, when they are missing and root is
# available, and the OHIF viewer into .peers. Where they cannot be had, the tests that need them say
# so as skipped.
set -u
cd "$(dirname "$0")/.." || exit 1
OHIF=@ohif/app@3.13.2
OHIF_SHA512=5997719a9986eeba85816f5924b71b82bdd70ad2e2d4a0cd3e831a798e4f3deea3e06e1f8c48e393271933a0ba664d85f3b04ac457e9abe8dde715d907d13c10

packages=()
need() { [ -e "$1" ] || packages+=("$2"); }
need /usr/bin/storescu dcmtk
need /usr/sbin/Orthanc orthanc
need /usr/share/orthanc/plugins/libOrthancDicomWeb.so orthanc-dicomweb
need /usr/bin/dcm2niix dcm2niix
need /usr/bin/pdftotext poppler-utils
need /usr/share/java/pixelmed.jar libpixelmed-java
need /usr/share/java/Saxon-HE.jar libsaxonhe-java
need /usr/bin/chromium chromium
need /usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc fonts-noto-cjk
command -v npm >/dev/null || packages+=(npm)
command -v java >/dev/null || packages+=(default-jre-headless)
ldconfig -p | grep -q 'libfuse3\.so' || packages+=(libfuse3-3)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || packages+=(postgresql)

install_packages() {
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "Not installed, tests that need them are skipped: ${packages[*]}"
        return
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null ||
        echo "Could not install ${packages[*]}: tests that need them are skipped"
}

# The package ships the viewer built; its source maps and neural networks are not needed.
install_ohif() {
    local fetched
    fetched=$(mktemp -d)
    if (cd "$fetched" && npm pack --silent "$OHIF" >/dev/null &&
        echo "$OHIF_SHA512  $(echo ./*.tgz)" | sha512sum --check --quiet &&
        tar -xzf ./*.tgz --exclude='*.map' --exclude='package/dist/ort'); then
        mkdir -p .peers && rm -rf .peers/ohif && mv "$fetched/package" .peers/ohif
    else
        echo "Could not fetch $OHIF by npm: tests that need it are skipped"
    fi
    rm -rf "$fetched"
}

[ ${#packages[@]} -eq 0 ] || install_packages
grep -qs "\"version\": \"${OHIF##*@}\"" .peers/ohif/package.json || install_ohif
exit 0
