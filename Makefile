# imcharge: see README.md. "make help" lists what there is.

# KAMAILIO=trixie (a Debian release) or KAMAILIO=6.0 (a version) selects another Kamailio than the installed one.
ifdef KAMAILIO
HOST = $(CURDIR)/out/hosts/$(KAMAILIO)
KAMAILIO_BIN = $(HOST)/root/usr/sbin/kamailio
KAMAILIO_MODULES = $(HOST)/modules
KAMAILIO_SRC = $(HOST)/source/src
MODULE = out/$$(cat $(HOST)/version)/imcharge.so
# It runs with its own libraries and its own kamcmd.
RUN = PATH=$(HOST)/bin:$$PATH KAMAILIO_BIN=$(HOST)/bin/kamailio
PACKED = $$(cat $(HOST)/packed)
endif
KAMAILIO_BIN ?= /usr/sbin/kamailio
KAMAILIO_MODULES ?= /usr/lib/x86_64-linux-gnu/kamailio/modules
KAMAILIO_SRC ?= $(CURDIR)/out/kamailio/src
export KAMAILIO_BIN KAMAILIO_MODULES KAMAILIO_SRC
# Debian has no OpenSIPS: set these to its sources and its program.
export OPENSIPS_SRC OPENSIPS_BIN
# kamailio and kamcmd are in /usr/sbin, which is not in the PATH of ordinary users.
export PATH := $(PATH):/usr/sbin:/sbin
ifdef OPENSIPS_MODULES
export OPENSIPS_MODULES
endif

# The stock Kamailio is installed only if it is the one to build for.
PACKAGES_BUILD = $(if $(filter $(CURDIR)/out/kamailio/src,$(KAMAILIO_SRC)),kamailio) clang libclang-dev binutils gcc libc6-dev make xz-utils patch
# libFuzzer is C++.
PACKAGES_FUZZ = g++
PACKAGES_TEST = postgresql-15 sqlite3 kamailio-lua-modules kamailio-ims-modules valgrind tshark sip-tester baresip-core linphone-cli
PACKAGES_TEST_ALL = $(PACKAGES_FUZZ) freediameterd freediameter-extensions libfreediameter-dev erlang-dev erlang-diameter python3-venv debootstrap lintian dpkg-dev
# What the tests of the shared ledger start.
PACKAGES_SHARED = postgresql-15
PACKAGES_PATRONI = postgresql-15 patroni python3-etcd etcd-server
PACKAGES_BENCH = kamailio-ims-modules
PACKAGES_DEB = dpkg-dev binutils
MODULE ?= out/imcharge.so
# The version of the Debian package of the Kamailio that the module is for.
PACKED ?= $$(dpkg-query -W -f '$${Version}' kamailio)

OPENSIPS_SO = out/opensips/imcharge.so
PACKAGES_TEST_OPENSIPS = python3-venv tshark
PACKAGES_OPENSIPS = clang libclang-dev binutils gcc libc6-dev make
CARGO_OPENSIPS = CARGO_TARGET_DIR=$(CURDIR)/target/opensips cargo

.PHONY: help run run-shared check test test-all sim crashes shared patroni soak bench fuzz loom miri deny module opensips test-opensips deb header source rust clean

help:
	@echo 'make run            charge retrievals, a chat and a MESSAGE in the stock Kamailio, and print them'
	@echo 'make run-shared     two proxies with one account in PostgreSQL; one is killed and the other settles its session'
	@echo 'make check          format and lints of all code, also of the simulation, the loom models and the fuzz targets'
	@echo 'make test           unit tests, C harness and end-to-end tests with the stock Kamailio'
	@echo 'make test-all       make test, other releases of Kamailio, foreign Diameter stacks, simulation, fuzzing, packages, soak'
	@echo 'make sim            simulate SEEDS=10000 runs with crashes and faults, starting at SEED=1'
	@echo 'make crashes        SIGKILL of the engine, and of all processes, CRASHES=50 times each under traffic'
	@echo 'make shared         the shared ledger: ROUNDS=50 kills of the primary, a proxy dies with OPEN=1000 sessions, CUT=90 seconds of partition'
	@echo 'make patroni        the shared ledger under Patroni, whose leader is killed'
	@echo 'make soak           a million sessions and 20,000 retrievals; checks memory and leftovers'
	@echo 'make bench          measure Kamailio with charging beside Kamailio without'
	@echo 'make fuzz           fuzz codecs, state machines and the C ABI; TARGET=sdp SECONDS=60'
	@echo 'make loom           model-check the shared memory; MODEL=name of one model'
	@echo 'make miri           run rules, codecs and shared memory in Miri'
	@echo 'make deny           check licences, sources, duplicates and advisories of the dependencies'
	@echo 'make module         build out/imcharge.so for the installed Kamailio; KAMAILIO=trixie builds out/VERSION/imcharge.so'
	@echo 'make opensips       build $(OPENSIPS_SO); needs OPENSIPS_SRC=sources OPENSIPS_BIN=program'
	@echo 'make test-opensips  end-to-end tests with OpenSIPS, same variables; ONLY=part of a test name'
	@echo 'make deb            build a Debian package in out/deb/; KAMAILIO as for make module'
	@echo 'make header         write include/imcharge.h'
	@echo 'make clean          remove everything that was built'

run: module
	@echo 'building the example parties'
	@cargo build -q --release --examples
	@$(RUN) target/release/examples/flows --module $(MODULE)

run-shared: module
	@scripts/dependencies.sh $(PACKAGES_SHARED)
	@echo 'building the example parties'
	@cargo build -q --release --example shared
	@$(RUN) target/release/examples/shared --module $(MODULE)

check: source
	@scripts/dependencies.sh $(PACKAGES_FUZZ)
	@scripts/check.sh

test: module
	@scripts/dependencies.sh $(PACKAGES_TEST) $(PACKAGES_FUZZ)
	@scripts/test.sh

test-all: module $(if $(and $(OPENSIPS_SRC),$(OPENSIPS_BIN)),opensips)
	@scripts/dependencies.sh $(PACKAGES_TEST) $(PACKAGES_TEST_ALL)
	@scripts/peers.sh out/peers
	@scripts/prometheus.sh out/prometheus
	@scripts/test.sh all

sim: rust
	@echo 'building the simulation (the first time takes some minutes)'
	@CARGO_TARGET_DIR=$(CURDIR)/target/simulate cargo test -q --release --features simulate --test simulation

crashes: module
	@cargo build -q --release --example ocs
	@CRASHES=$(or $(CRASHES),50) IMCHARGE_MODULE=$(CURDIR)/out IMCHARGE_OCS=$(CURDIR)/target/release/examples/ocs \
		cargo test -q --test e2e reconcile:: -- --nocapture --test-threads=1

shared: module
	@scripts/dependencies.sh $(PACKAGES_SHARED)
	@ROUNDS=$(or $(ROUNDS),50) OPEN=$(or $(OPEN),1000) CUT=$(or $(CUT),90) IMCHARGE_MODULE=$(CURDIR)/out \
		cargo test -q --test e2e shared:: -- --nocapture --test-threads=1

patroni: module
	@scripts/dependencies.sh $(PACKAGES_PATRONI)
	@IMCHARGE_MODULE=$(CURDIR)/out cargo test -q --test e2e shared::patroni:: -- --ignored --nocapture --test-threads=1

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
	@[ -n "$(OPENSIPS_SRC)" ] && [ -n "$(OPENSIPS_BIN)" ] || { echo 'set OPENSIPS_SRC to the sources and OPENSIPS_BIN to the program of OpenSIPS' >&2; exit 1; }
	@scripts/dependencies.sh $(PACKAGES_OPENSIPS)
	@echo 'building the module for OpenSIPS (the first time takes some minutes)'
	@$(CARGO_OPENSIPS) build -q --release --lib --features opensips
	@mkdir -p out/opensips
	@scripts/check-imports.sh target/opensips/release/libimcharge.so $(OPENSIPS_BIN)
	@cmp -s target/opensips/release/libimcharge.so $(OPENSIPS_SO) || { cp target/opensips/release/libimcharge.so $(OPENSIPS_SO).new && mv $(OPENSIPS_SO).new $(OPENSIPS_SO); }

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
