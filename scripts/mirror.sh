# Functions that fetch packages from the mirror of this machine with apt's checks, without changing the system: lists, cache and
# state are in a separate folder. Use by ". scripts/mirror.sh".

# Prints address and component of the mirror for Kamailio, as in a sources.list: "http://mirror/debian main".
mirror() {
    # "500 http://mirror/debian bookworm/main amd64 Packages"; a suite with a hyphen (updates, security) comes last.
    apt-cache policy kamailio |
        awk '$1 ~ /^[0-9]+$/ && $5 == "Packages" { split($3, part, "/"); print part[1] ~ /-/, $2, part[2] }' |
        sort -u | awk 'NR == 1 { print $2, $3 }'
}

# Makes FOLDER ready for private_apt; the sources.list is read from standard input.
private_state() {
    mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
    chmod 755 "$1"
    : >"$1/installed"
    cat >"$1/sources.list"
}

# private_apt FOLDER PROGRAM ARGUMENT...: apt-get or apt-cache on that folder.
private_apt() {
    private=$1
    program=$2
    shift 2
    "$program" -o "Dir::Etc::sourcelist=$private/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o "Dir::State::lists=$private/lists" \
        -o "Dir::State::status=$private/installed" -o "Dir::Cache=$private/cache" -o "APT::Sandbox::User=$(id -un)" \
        -o APT::Update::Error-Mode=any \
        -o Acquire::Languages=none -o APT::Install-Recommends=false -qq "$@"
}

# unpack_source STATE VERSION FOLDER: the sources that this version of Debian's kamailio was built from, headers as Debian
# patches them. The mirror may lack unneeded files (the upstream signature); the files used are checked by their hash.
unpack_source() {
    (
        cd "$1"
        private_apt "$1" apt-get source --download-only "kamailio=$2" >source.log 2>&1 || true
        private_apt "$1" apt-cache showsrc --only-source kamailio |
            awk -v version="$2" 'BEGIN { RS = "" } index($0 "\n", "\nVersion: " version "\n")' |
            awk '/^[^ ]/ { inside = $1 == "Checksums-Sha256:" }
                inside && $3 ~ /\.(orig|debian)\.tar\.[a-z]*$/ { print $1 "  " $3 }' |
            sort -u >hashes
        [ "$(wc -l <hashes)" -eq 2 ] && sha256sum --status -c hashes
    ) 2>/dev/null || return 1
    rm -rf "$3"
    mkdir -p "$3"
    tar -xf "$1"/kamailio_*.orig.tar.* -C "$3" --strip-components=1 || return 1
    tar -xf "$1"/kamailio_*.debian.tar.* -C "$3" || return 1
    for patch in $(grep -v '^#' "$3/debian/patches/series"); do
        if grep -q '^+++ .*\.h\b' "$3/debian/patches/$patch"; then
            patch -s -p1 -d "$3" -i "$3/debian/patches/$patch" || return 1
        fi
    done
}
