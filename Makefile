# imcharge: see README.md. "make help" lists what there is.

# KAMAILIO=trixie (a release of Debian) or KAMAILIO=6.0 (a version that some release has): not the one of this machine.
ifdef KAMAILIO
HOST = $(CURDIR)/out/hosts/$(KAMAILIO)
KAMAILIO_BIN = $(HOST)/root/usr/sbin/kamailio
KAMAILIO_MODULES = $(HOST)/modules
KAMAILIO_SRC = $(HOST)/source/src
MODULE = out/$$(cat $(HOST)/version)/imcharge.so
# It runs with libraries of its own, and with its own kamcmd.
RUN = PATH=$(HOST)/bin:$$PATH KAMAILIO_BIN=$(HOST)/bin/kamailio
PACKED = $$(cat $(HOST)/packed)
endif
KAMAILIO_BIN ?= /usr/sbin/kamailio
KAMAILIO_MODULES ?= /usr/lib/x86_64-linux-gnu/kamailio/modules
KAMAILIO_SRC ?= $(CURDIR)/out/kamailio/src
export KAMAILIO_BIN KAMAILIO_MODULES KAMAILIO_SRC
# OpenSIPS is in no Debian: where its sources and its program are is said by whoever has them.
export OPENSIPS_SRC OPENSIPS_BIN
# kamailio and kamcmd lie in /usr/sbin, which is not in the PATH of Debian's ordinary users.
export PATH := $(PATH):/usr/sbin:/sbin
ifdef OPENSIPS_MODULES
export OPENSIPS_MODULES
endif

# A Kamailio of one's own, or of another release, needs no second one installed (and started) beside it.
PACKAGES_BUILD = $(if $(filter $(CURDIR)/out/kamailio/src,$(KAMAILIO_SRC)),kamailio) clang libclang-dev binutils gcc libc6-dev make xz-utils patch
# libFuzzer is C++.
PACKAGES_FUZZ = g++
PACKAGES_TEST = $(PACKAGES_FUZZ) sqlite3 kamailio-lua-modules kamailio-ims-modules valgrind freediameterd freediameter-extensions libfreediameter-dev erlang-dev erlang-diameter python3-venv tshark debootstrap lintian dpkg-dev
PACKAGES_BENCH = kamailio-ims-modules
PACKAGES_DEB = dpkg-dev binutils
MODULE ?= out/imcharge.so
# The version of the Debian package of the Kamailio that the module is for.
PACKED ?= $$(dpkg-query -W -f '$${Version}' kamailio)

OPENSIPS_SO = out/opensips/imcharge.so
PACKAGES_TEST_OPENSIPS = python3-venv tshark
PACKAGES_OPENSIPS = clang libclang-dev binutils gcc libc6-dev make
CARGO_OPENSIPS = CARGO_TARGET_DIR=$(CURDIR)/target/opensips cargo

.PHONY: help run test sim crashes soak bench fuzz loom miri deny module opensips test-opensips deb header source rust clean

help:
	@echo 'make run      charge four real retrievals in a real Kamailio, and show them'
	@echo 'make test     all tests, with the stock Kamailio'
	@echo 'make sim      SEEDS=10000 runs of the whole under crashes and faults, from SEED=1 on, on a simulated machine'
	@echo 'make crashes  SIGKILL of the engine, and of every process, CRASHES=50 times each under traffic'
	@echo 'make soak     a million sessions and 20,000 retrievals, and what they leave behind'
	@echo 'make bench    Kamailio with charging beside Kamailio without'
	@echo 'make fuzz     feed the codecs, machines and the C ABI with made-up input: TARGET=sdp SECONDS=60'
	@echo 'make loom     try the shared memory in every order of threads: MODEL=sleeps'
	@echo 'make miri     the rules, the codecs and the shared memory in the interpreter that knows undefined behaviour'
	@echo 'make deny     check licences, sources, duplicates and known faults of the dependencies'
	@echo 'make module   build out/imcharge.so for the Kamailio on this machine; KAMAILIO=trixie: out/VERSION/imcharge.so for that'
	@echo 'make opensips build $(OPENSIPS_SO) for an OpenSIPS: OPENSIPS_SRC=its sources OPENSIPS_BIN=its program'
	@echo 'make test-opensips  the tests that are for it alone, with the same variables; ONLY=a word of their names'
	@echo 'make deb      pack it for Debian, in out/deb/; KAMAILIO as for make module'
	@echo 'make header   write include/imcharge.h anew'
	@echo 'make clean    remove what was built'

run: module
	@echo 'building the example parties'
	@cargo build -q --release --examples
	@$(RUN) target/release/examples/retrieval --module $(MODULE)

test: module $(if $(and $(OPENSIPS_SRC),$(OPENSIPS_BIN)),opensips)
	@scripts/dependencies.sh $(PACKAGES_TEST)
	@scripts/peers.sh out/peers
	@scripts/prometheus.sh out/prometheus
	@scripts/test.sh

sim: rust
	@echo 'building the simulation (the first time takes some minutes)'
	@CARGO_TARGET_DIR=$(CURDIR)/target/simulate cargo test -q --release --features simulate --test simulation

crashes: module
	@cargo build -q --release --example ocs
	@CRASHES=$(or $(CRASHES),50) IMCHARGE_MODULE=$(CURDIR)/out IMCHARGE_OCS=$(CURDIR)/target/release/examples/ocs \
		cargo test -q --test e2e reconcile:: -- --nocapture --test-threads=1

soak: module
	@cargo build -q --release --example ocs
	@cargo build -q --release -p imcharge-testkit --bin soak
	@$(RUN) target/release/soak --module $(MODULE)

bench: module
	@scripts/dependencies.sh $(PACKAGES_BENCH)
	@echo 'building the load'
	@cargo build -q --release --example ocs
	@$(RUN) cargo bench -q --bench charging -- --module $(MODULE)

fuzz: rust
	@scripts/dependencies.sh $(PACKAGES_FUZZ)
	@scripts/fuzz.sh $(or $(SECONDS),60) $(TARGET)

loom: rust
	@scripts/loom.sh $(MODEL)

miri: rust
	@scripts/miri.sh

deny: rust
	@scripts/deny.sh

module: source
	@scripts/module.sh $(addsuffix /root,$(HOST))

deb: module
	@scripts/dependencies.sh $(PACKAGES_DEB)
	@scripts/deb.sh $(MODULE) "$(PACKED)" out/deb

opensips: rust
	@[ -n "$(OPENSIPS_SRC)" ] && [ -n "$(OPENSIPS_BIN)" ] || { echo 'say where OpenSIPS is: make opensips OPENSIPS_SRC=its sources OPENSIPS_BIN=its program' >&2; exit 1; }
	@scripts/dependencies.sh $(PACKAGES_OPENSIPS)
	@echo 'building the module for OpenSIPS (the first time takes some minutes)'
	@$(CARGO_OPENSIPS) build -q --release --lib --features opensips
	@mkdir -p out/opensips
	@scripts/check-imports.sh target/opensips/release/libimcharge.so $(OPENSIPS_BIN)
	@cp -u target/opensips/release/libimcharge.so $(OPENSIPS_SO)

test-opensips: opensips
	@scripts/dependencies.sh $(PACKAGES_TEST_OPENSIPS)
	@scripts/opensips-cli.sh out/peers
	@cargo build -q --release --example ocs
	@scripts/test-opensips.sh $(ONLY)

source: rust
	@scripts/dependencies.sh $(PACKAGES_BUILD)
ifdef KAMAILIO
	@scripts/kamailio-release.sh $(KAMAILIO) $(HOST)
else
	@case $(KAMAILIO_SRC) in $(CURDIR)/out/*) scripts/kamailio-source.sh out/kamailio ;; esac
endif

rust:
	@scripts/rust.sh

header: rust
	@IMCHARGE_WRITE_HEADER=1 cargo test -q --test header

clean:
	rm -rf out target
