//! Configuration of Kamailio's own charging modules (ims_charging, cdp, ims_dialog) for the same calls.

use super::comparison::without_charging;
use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Writes a configuration of the shipped relay, charged by ims_charging at this OCS. Returns its path.
pub fn configuration(folder: &Path, ocs: SocketAddr) -> Result<PathBuf, Box<dyn Error>> {
    let peers = folder.join("peers.xml");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr())?;
    std::fs::write(
        &peers,
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <DiameterPeer FQDN=\"proxy.example.org\" Realm=\"example.org\" Vendor_Id=\"10415\" Product_Name=\"cdp\" \
             AcceptUnknownPeers=\"0\" DropUnknownOnDisconnect=\"1\" Tc=\"5\" Workers=\"4\" QueueLength=\"1000\" \
             ConnectTimeout=\"5\" TransactionTimeout=\"5\" SessionsHashSize=\"128\" DefaultAuthSessionTimeout=\"3600\" \
             MaxAuthSessionTimeout=\"3600\">\n<Peer FQDN=\"localhost\" Realm=\"example.com\" port=\"{}\"/>\n\
             <Acceptor port=\"{}\" bind=\"127.0.0.1\"/>\n<Auth id=\"4\" vendor=\"10415\"/>\n\
             <SupportedVendor vendor=\"10415\"/>\n<DefaultRoute FQDN=\"localhost\" metric=\"10\"/>\n</DiameterPeer>\n",
            ocs.port(),
            free.port()
        ),
    )?;
    let modules = format!(
        "loadmodule \"cdp.so\"\nloadmodule \"cdp_avp.so\"\nloadmodule \"ims_dialog.so\"\nloadmodule \"ims_charging.so\"\n\
         modparam(\"cdp\", \"config_file\", \"{}\")\nmodparam(\"ims_dialog\", \"dlg_flag\", 4)\n\
         modparam(\"ims_charging\", \"origin_host\", \"proxy.example.org\")\n\
         modparam(\"ims_charging\", \"origin_realm\", \"example.org\")\n\
         modparam(\"ims_charging\", \"destination_host\", \"localhost\")\n\
         modparam(\"ims_charging\", \"destination_realm\", \"example.com\")\n\
         modparam(\"ims_charging\", \"ro_forced_peer\", \"localhost\")\nloadmodule \"msrp.so\"",
        peers.display()
    );
    let text = without_charging()?;
    let text = text.replace("loadmodule \"msrp.so\"", &modules);
    let charged = "    setflag(4);\n    t_newtran();\n    Ro_CCR(\"CHARGED\", \"orig\", 3600, \"\", \"\");\n    \
                   if ($rc < 0) { t_reply(\"500\", \"Charging Error\"); }\n    exit;";
    let text = text.replace("    $du = IM_SERVER; t_relay(); exit;", charged);
    let text = text
        + "\nroute[CHARGED] {\n    if ($avp(s:cca_return_code) == 1) { $du = IM_SERVER; t_relay(); exit; }\n    \
           t_reply(\"402\", \"Payment Required\");\n}\n";
    let path = folder.join("incumbent.cfg");
    std::fs::write(&path, text)?;
    Ok(path)
}
