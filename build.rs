//! Builds what a host needs: only with a host's feature, and then exactly for the host that is on this machine.

#[cfg(feature = "kamailio")]
#[path = "build/kamailio.rs"]
mod kamailio;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "kamailio")]
    if let Err(sentence) = kamailio::build() {
        eprintln!("\nimcharge cannot be built for this Kamailio: {sentence}\n");
        std::process::exit(1);
    }
}
