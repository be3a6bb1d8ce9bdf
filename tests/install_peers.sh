#!/usr/bin/env bash
# Installs the real peers and validators that the tests talk to, when they are missing and root is
# available. Where they cannot be had, the tests that need them say so as skipped.
set -u
packages=()
need() { [ -e "$1" ] || packages+=("$2"); }
need /usr/bin/storescu dcmtk
need /usr/sbin/Orthanc orthanc
need /usr/bin/dcm2niix dcm2niix
need /usr/bin/pdftotext poppler-utils
need /usr/share/java/pixelmed.jar libpixelmed-java
need /usr/share/java/Saxon-HE.jar libsaxonhe-java
command -v java >/dev/null || packages+=(default-jre-headless)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || packages+=(postgresql)
[ ${#packages[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "Not installed, tests that need them are skipped: ${packages[*]}"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null ||
    echo "Could not install ${packages[*]}: tests that need them are skipped"
exit 0
