#!/bin/sh
# Packs the module for one version of Debian's Kamailio.
# Usage: scripts/deb.sh MODULE KAMAILIO_VERSION FOLDER   (KAMAILIO_VERSION: of its package, like 5.6.3-2)
# Prints the file. DEBFULLNAME and DEBEMAIL say who maintains the package.
set -eu
module=$1
kamailio=$2
folder=$3
top=$(cd "$(dirname "$0")/.." && pwd)
name=kamailio-imcharge-module
version="$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml" | head -n 1)${REVISION:+.$REVISION}+kamailio$kamailio"
architecture=$(dpkg --print-architecture)
triplet=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
maintainer="${DEBFULLNAME:-imcharge} <${DEBEMAIL:-imcharge@example.org}>"
date=$(git -C "$top" log -1 --format=%cd --date=rfc 2>/dev/null || date -R)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
modules=$tree/usr/lib/$triplet/kamailio/modules
documents=$tree/usr/share/doc/$name
install -d "$modules" "$documents/examples" "$documents/docs" "$tree/DEBIAN"

install -m 644 "$module" "$modules/imcharge.so"
strip --strip-unneeded --remove-section=.comment "$modules/imcharge.so"
install -m 644 "$top"/kamailio-config/kamailio/* "$top"/kamailio-config/prometheus/* "$top"/kamailio-config/grafana/* \
    "$documents/examples"
install -m 644 "$top/README.md" "$top/SECURITY.md" "$top/CONTRIBUTING.md" "$top/packaging/copyright" "$documents"
install -m 644 "$top"/docs/*.md "$documents/docs"
gzip -9nc "$top/CHANGELOG.md" >"$documents/changelog.gz"
gzip -9n >"$documents/changelog.Debian.gz" <<END
$name ($version) unstable; urgency=medium

  * Built for kamailio $kamailio. Changes are listed in changelog.gz.

 -- $maintainer  $date
END
install -D -m 644 "$top/kamailio-config/postgres/imcharge.sql" "$tree/usr/share/imcharge/imcharge.sql"
install -D -m 644 "$top/packaging/kamailio-imcharge.conf" "$tree/usr/lib/systemd/system/kamailio.service.d/imcharge.conf"

# dpkg-shlibdeps needs the folder of a source package.
mkdir "$tree/debian"
printf 'Source: %s\n\nPackage: %s\nArchitecture: any\n' "$name" "$name" >"$tree/debian/control"
libraries=$(cd "$tree" && dpkg-shlibdeps -O -e"${modules#"$tree"/}/imcharge.so" 2>/dev/null | sed 's/^shlibs:Depends=//')
rm -r "$tree/debian"
sed -e "s/@VERSION@/$version/" -e "s/@KAMAILIO@/$kamailio/" -e "s/@ARCHITECTURE@/$architecture/" \
    -e "s/@MAINTAINER@/$maintainer/" -e "s/@LIBRARIES@/$libraries/" \
    -e "s/@SIZE@/$(du -sk --exclude=DEBIAN "$tree" | cut -f1)/" "$top/packaging/control" >"$tree/DEBIAN/control"
install -m 755 "$top/packaging/postinst" "$top/packaging/postrm" "$tree/DEBIAN"
(cd "$tree" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)

mkdir -p "$folder"
package=$folder/${name}_${version}_$architecture.deb
dpkg-deb --build --root-owner-group -Zxz "$tree" "$package" >/dev/null
echo "$package"
