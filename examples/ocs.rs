//! The OCS simulator as a program: see `testkit/src/ocs`.

fn main() {
    imcharge_testkit::ocs::main();
}
