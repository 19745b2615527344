# imcharge: see README.md. "make help" lists what there is.

KAMAILIO_BIN ?= /usr/sbin/kamailio
KAMAILIO_MODULES ?= /usr/lib/x86_64-linux-gnu/kamailio/modules
KAMAILIO_SRC ?= $(CURDIR)/out/kamailio/src
export KAMAILIO_BIN KAMAILIO_MODULES KAMAILIO_SRC

PACKAGES_BUILD = kamailio clang libclang-dev binutils gcc libc6-dev make
# libFuzzer is C++.
PACKAGES_FUZZ = g++
PACKAGES_TEST = $(PACKAGES_FUZZ) kamailio-lua-modules kamailio-ims-modules valgrind freediameterd freediameter-extensions libfreediameter-dev erlang-dev erlang-diameter python3-venv tshark
PACKAGES_BENCH = kamailio-ims-modules
MODULE = out/imcharge.so
# The module has a build folder of its own: a feature more would build everything twice in turns.
CARGO_MODULE = CARGO_TARGET_DIR=$(CURDIR)/target/kamailio cargo

.PHONY: help run test sim soak bench fuzz loom deny module header source clean

help:
	@echo 'make run      charge four real retrievals in a real Kamailio, and show them'
	@echo 'make test     all tests, with the stock Kamailio'
	@echo 'make sim      SEEDS=10000 runs of the whole under crashes and faults, from SEED=1 on, on a simulated machine'
	@echo 'make soak     a million sessions through one proxy, and what they leave behind'
	@echo 'make bench    Kamailio with charging beside Kamailio without'
	@echo 'make fuzz     feed the codecs, machines and the C ABI with made-up input: TARGET=sdp SECONDS=60'
	@echo 'make loom     try the shared memory in every order of threads: MODEL=sleeps'
	@echo 'make deny     check licences, sources, duplicates and known faults of the dependencies'
	@echo 'make module   build $(MODULE) for the Kamailio on this machine'
	@echo 'make header   write include/imcharge.h anew'
	@echo 'make clean    remove what was built'

run: module
	@echo 'building the example parties'
	@cargo build -q --release --examples
	@target/release/examples/retrieval --module $(MODULE)

test: module
	@scripts/dependencies.sh $(PACKAGES_TEST)
	@scripts/peers.sh out/peers
	@scripts/prometheus.sh out/prometheus
	@scripts/test.sh

sim:
	@echo 'building the simulation (the first time takes some minutes)'
	@CARGO_TARGET_DIR=$(CURDIR)/target/simulate cargo test -q --release --features simulate --test simulation

soak: module
	@cargo build -q --release --example soak
	@target/release/examples/soak --module $(MODULE)

bench: module
	@scripts/dependencies.sh $(PACKAGES_BENCH)
	@echo 'building the load'
	@cargo build -q --release --examples
	@target/release/examples/bench --module $(MODULE)

fuzz:
	@scripts/dependencies.sh $(PACKAGES_FUZZ)
	@scripts/fuzz.sh $(or $(SECONDS),60) $(TARGET)

loom:
	@scripts/loom.sh $(MODEL)

deny:
	@scripts/deny.sh

module: source
	@echo 'building the module (the first time takes some minutes)'
	@$(CARGO_MODULE) build -q --release --lib --features kamailio
	@mkdir -p out
	@scripts/check-imports.sh target/kamailio/release/libimcharge.so $(KAMAILIO_BIN)
	@cp -u target/kamailio/release/libimcharge.so $(MODULE)

source:
	@command -v cargo >/dev/null || { echo 'cargo is missing: install Rust 1.88 or newer' >&2; exit 1; }
	@scripts/dependencies.sh $(PACKAGES_BUILD)
	@case $(KAMAILIO_SRC) in $(CURDIR)/out/*) scripts/kamailio-source.sh out/kamailio ;; esac

header:
	@IMCHARGE_WRITE_HEADER=1 cargo test -q --test header

clean:
	rm -rf out target
