//! OCS simulator as a program. `--help` lists its options and control commands.

fn main() {
    imcharge_testkit::ocs::cli::main();
}
