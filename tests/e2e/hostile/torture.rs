//! Messages modelled on the torture tests of RFC 4475, each with the name of the test. INVITEs also carry an SDP body with
//! MSRP and an asserted identity, unless that would defeat the purpose of the test, so that they reach the module.

use super::super::{ALICE, Stage};
use super::{PATIENCE, Vitals};
use imcharge_testkit::proxy::Setup;
use imcharge_testkit::{eventually, unique};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// A message, and the final status of its answer; 0: no answer. Kamailio silently drops what its parser refuses, such as a
/// folded CSeq. 408: the test's server does not read compact header names and never answers. 503: imcharge refuses INVITEs
/// with a From tag of more than 256 octets or without one, because the tag identifies the session.
struct Case {
    name: &'static str,
    status: u16,
    /// Lines end with LF here. `{own}` is the sender's address, `{id}` a unique number, `{pai}` a line with
    /// the asserted identity, `{sdp}` the rest of a message with a description: type, length, empty line and body.
    text: &'static str,
}

const fn case(name: &'static str, status: u16, text: &'static str) -> Case {
    Case { name, status, text }
}

/// 3.1.1: valid messages with unusual syntax.
const VALID: &[Case] = &[
    // Folded lines, odd case, compact names, escapes in quotes, empty values.
    case(
        "wsinv",
        0,
        "INVITE sip:deferred@im.example.org;strange SIP/2.0\nTO :\n sip:deferred@im.example.org ;  tag  = 19n\nfrom   : \"A. \\\\\\\"\"       <sip:alice@example.org>\n  ;\n  tag = 98\nMaX-fOrWaRdS: 0068\nCall-ID: wsinv.{id}\ncseq: 0009\n  INVITE\nVia  : SIP  /   2.0\n /UDP\n    {own};rport;branch=39{id}\ns :\nBrandNewHeader:   new value\n continued new value\nHeaderOfOddValue: ;;,,;;,;\n{pai}Route:\n <sip:{proxy};lr;unknown=with;unknown-without>\nv:  SIP  / 2.0  / TCP     far.example.org   ;\n  branch  =   z9hG4bK9i  ,\n SIP  /    2.0   / UDP  192.0.2.111   ; branch=\n z9hG4bK302\nm:\"Quoted \\\"\\\"\" <sip:alice@192.0.2.1> ; newone =\n      newvalue ;\n  second ; q = 0.33\n{sdp}",
    ),
    // All characters that a token, a user part and a word may have.
    case(
        "intmeth",
        0,
        "!strange-Method0123456789_*+`.%truly'~ sip:1_odd.URI~(to-be!sure)&is+it$/mad?,/;;*:&it+has=1,odd!*pas$wo~d_too.(is-it)@example.org SIP/2.0\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK-.!%66*_+`'~\nTo: \"BEL:\\\u{7} NUL:\\\0 DEL:\\\u{7f}\" <sip:1_odd.URI~(to-be!sure)&is+it$/mad?,/;;*@example.org>\nFrom: one~` two'+_ three*%!.- <sip:plain@example.org>;odd''~+*_!.-%=\"\u{440}\u{430}\u{431}\u{43e}\u{442}\u{430}\";tag=_a~1'+`*%!-.\nCall-ID: intmeth{id}.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{\nCSeq: 139122385 !strange-Method0123456789_*+`.%truly'~\nMax-Forwards: 255\nextension-!.%*+_`'~:\u{feff}\u{5927}\u{505c}\u{96fb}\nContent-Length: 0\n\n",
    ),
    // Escaped reserved characters.
    case(
        "esc01",
        408,
        "INVITE sip:sips%3Auser%40example.org@im.example.org SIP/2.0\nTo: sip:%75se%72@im.example.org\nFrom: <sip:I%20have%20spaces@example.org>;tag=93\nMax-Forwards: 87\ni: esc01.{id}\nCSeq: 1 INVITE\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\n{pai}Contact: <sip:cal%6Cer@192.0.2.2:5060;%6C%72;n%61me=v%61lue%25%34%31>\n{sdp}",
    ),
    // Escaped NULs.
    case(
        "escnull",
        405,
        "REGISTER sip:im.example.org SIP/2.0\nTo: sip:null-%00-null@example.org\nFrom: sip:null-%00-null@example.org;tag=83\nMax-Forwards: 87\nCall-ID: escnull.{id}\nCSeq: 14 REGISTER\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nContact: <sip:%00@192.0.2.1>\nContact: <sip:%00%00@192.0.2.1>\nL:0\n\n",
    ),
    // A percent that escapes nothing.
    case(
        "esc02",
        405,
        "RE%47IST%45R sip:im.example.org SIP/2.0\nTo: \"%Z%45\" <sip:name@example.org>\nFrom: \"%Z%45\" <sip:name@example.org>;tag=f2\nCall-ID: esc02.{id}\nCSeq: 29 RE%47IST%45R\nMax-Forwards: 70\nContact: <sip:x@192.0.2.1>\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nl: 0\n\n",
    ),
    // No space between a display name and its bracket.
    case(
        "lwsdisp",
        200,
        "OPTIONS sip:im.example.org SIP/2.0\nTo: sip:deferred@im.example.org\nFrom: caller<sip:alice@example.org>;tag=32\nMax-Forwards: 70\nCall-ID: lwsdisp.{id}\nCSeq: 60 OPTIONS\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nl: 0\n\n",
    ),
    // Long values of everything.
    case(
        "longreq",
        503,
        "INVITE sip:deferred@im.example.org SIP/2.0\nTo: \"I have a name {300}\" <sip:deferred@im.example.org:6000;name{300}=value{300};name;short=v>\nF: sip:{300}@example.org;tag=12{300}424;unknown{300}name=unknown{300}value;valueless{300}\nCall-ID: longreq.one{100}{id}\nCSeq: 3882340 INVITE\nUnknown-{300}-Name: unknown-{300}-value;unknown-{300}-parameter\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nVia: SIP/2.0/TCP sip33.example.org;branch=z9hG4bK{300},SIP/2.0/TCP sip32.example.org;branch=z9hG4bK{300}\nMax-Forwards: 70\n{pai}Contact: <sip:long{300}@192.0.2.1>\n{sdp}",
    ),
    // Octets after the end of the message.
    case(
        "dblreq",
        200,
        "OPTIONS sip:im.example.org SIP/2.0\nTo: sip:a@example.org\nFrom: sip:a@example.org;tag=43\nMax-Forwards: 8\nCall-ID: dblreq.{id}\nContact: sip:a@192.0.2.1\nCSeq: 8 OPTIONS\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nContent-Length: 0\n\nINVITE sip:deferred@im.example.org SIP/2.0\nTo: sip:a@example.org\nFrom: sip:a@example.org;tag=141\nMax-Forwards: 6\nCall-ID: dblreq2.{id}\n{pai}CSeq: 193942 INVITE\nVia: SIP/2.0/UDP 192.0.2.15;branch=z9hG4bK2\n{sdp}",
    ),
    // A semicolon in the user part.
    case(
        "semiuri",
        200,
        "OPTIONS sip:user;par=u%40example.net@im.example.org SIP/2.0\nTo: sip:j_user@example.org\nFrom: sip:caller@example.net;tag=332\nMax-Forwards: 3\nCall-ID: semiuri.{id}\nCSeq: 8 OPTIONS\nAccept: application/sdp\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nl: 0\n\n",
    ),
    // Several transports, and an unknown one.
    case(
        "transports",
        200,
        "OPTIONS sip:im.example.org SIP/2.0\nTo: sip:user@example.org\nFrom: <sip:caller@example.org>;tag=323\nMax-Forwards: 70\nCall-ID: transports.{id}\nCSeq: 60 OPTIONS\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nVia: SIP/2.0/SCTP t2.example.org;branch=z9hG4bK2\nVia: SIP/2.0/TLS t3.example.org;branch=z9hG4bK3\nVia: SIP/2.0/UNKNOWN t4.example.org;branch=z9hG4bK4\nVia: SIP/2.0/TCP t5.example.org;branch=z9hG4bK5\nl: 0\n\n",
    ),
    // A multipart body: SDP and binary data.
    case(
        "mpart01",
        200,
        "INVITE sip:deferred@im.example.org SIP/2.0\nTo: <sip:deferred@im.example.org>\nFrom: <sip:alice@example.org>;tag=pa\nMax-Forwards: 70\nCall-ID: mpart01.{id}\nCSeq: 1 INVITE\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\n{pai}Contact: <sip:alice@192.0.2.1>\nContent-Type: multipart/mixed;boundary=7a9cbec02ceef655\n{length}\n\n--7a9cbec02ceef655\nContent-Type: application/sdp\n\nv=0\nm=message 9 TCP/MSRP *\na=path:msrp://{own}/torture;tcp\n--7a9cbec02ceef655\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: binary\n\n0\u{82}\u{1}R\u{6}\t*\u{86}H\u{86}\u{f7}\r\u{1}\u{7}\u{2} \0\0\n--7a9cbec02ceef655--\n",
    ),
    // A non-ASCII reason phrase, and an empty one, in responses without a request.
    case(
        "unreason",
        0,
        "SIP/2.0 200 = 2**3 * 5**2 \u{43d}\u{43e} \u{441}\u{442}\u{43e}\nVia: SIP/2.0/UDP {proxy};branch=z9hG4bK1.{id};rport\nCall-ID: unreason.{id}\nCSeq: 35 INVITE\nFrom: sip:user@example.org;tag=11\nTo: sip:user@example.net;tag=22\nContact: <sip:user@192.0.2.198>\n{sdp}",
    ),
    case(
        "noreason",
        0,
        "SIP/2.0 100 \nVia: SIP/2.0/UDP {proxy};branch=z9hG4bK2.{id}\nCall-ID: noreason.{id}\nCSeq: 35 INVITE\nFrom: sip:user@example.org;tag=39\nTo: sip:user@example.net\nContent-Length: 0\n\n",
    ),
];

/// 3.1.2: invalid messages.
const INVALID: &[Case] = &[
    // Separators with nothing between them.
    case(
        "badinv01",
        0,
        "INVITE sip:deferred@im.example.org SIP/2.0\nTo: sip:deferred@im.example.org\nFrom: sip:alice@example.org;tag=13\nMax-Forwards: 7\nCall-ID: badinv01.{id}\nCSeq: 8 INVITE\nVia: SIP/2.0/UDP {own};;,;,,\n{pai}Contact: \"Joe\" <sip:joe@example.org>;;;;\n{sdp}",
    ),
    // A body that ends before its length.
    case(
        "clerr",
        200,
        "INVITE sip:deferred@im.example.org SIP/2.0\nMax-Forwards: 80\nTo: sip:deferred@im.example.org\nFrom: sip:alice@example.net;tag=93\nContact: <sip:alice@192.0.2.1>\nCall-ID: clerr.{id}\nCSeq: 8 INVITE\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\n{pai}Content-Type: application/sdp\nContent-Length: 9999\n\nv=0\na=path:msrp://{own}/torture;tcp\n",
    ),
    // A negative length.
    case(
        "ncl",
        0,
        "INVITE sip:deferred@im.example.org SIP/2.0\nMax-Forwards: 80\nTo: sip:deferred@im.example.org\nFrom: sip:alice@example.net;tag=93\nContact: <sip:alice@192.0.2.1>\nCall-ID: ncl.{id}\nCSeq: 8 INVITE\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\n{pai}Content-Type: application/sdp\nContent-Length: -999\n\nv=0\na=path:msrp://{own}/torture;tcp\n",
    ),
    // Numbers out of range, in a request and in a response.
    case(
        "scalar02",
        405,
        "REGISTER sip:im.example.org SIP/2.0\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nTo: <sip:user@example.org>\nFrom: <sip:user@example.org>;tag=23\nCall-ID: scalar02.{id}\nCSeq: 36893488147419103232 REGISTER\nMax-Forwards: 300\nExpires: 1000000000000000000000000000000000\nContact: <sip:user@192.0.2.1>;expires=280297596632815\nContent-Length: 0\n\n",
    ),
    case(
        "scalarlg",
        0,
        "SIP/2.0 503 Busy\nVia: SIP/2.0/UDP {proxy};branch=z9hG4bK3.{id}\nCall-ID: scalarlg.{id}\nCSeq: 9292394834772304023312 OPTIONS\nFrom: sip:user@example.org;tag=2\nTo: sip:user@example.net;tag=1\nWarning: 1812 overture \"In Progress\"\nRetry-After: 949302838503028349304023988\nContent-Length: 0\n\n",
    ),
    // A quote that is not closed.
    case(
        "quotbal",
        0,
        "INVITE sip:deferred@im.example.org SIP/2.0\nTo: \"Mr. J. User <sip:j@im.example.org>\nFrom: sip:alice@example.net;tag=93\nMax-Forwards: 10\nCall-ID: quotbal.{id}\nCSeq: 8 INVITE\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\n{pai}Contact: <sip:alice@192.0.2.1>\n{sdp}",
    ),
    // Brackets around the Request-URI.
    case(
        "ltgtruri",
        503,
        "INVITE <sip:deferred@im.example.org> SIP/2.0\nTo: sip:deferred@im.example.org\nFrom: sip:alice@example.net;tag=39\nMax-Forwards: 23\nCall-ID: ltgtruri.{id}\nCSeq: 1 INVITE\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\n{pai}Contact: <sip:alice@192.0.2.1>\n{sdp}",
    ),
    // Spaces in and around the Request-URI.
    case(
        "lwsruri",
        0,
        "INVITE sip:deferred@im.example.org; lr SIP/2.0\nTo: sip:deferred@im.example.org;tag=3\nFrom: sip:alice@example.net;tag=39\nMax-Forwards: 23\nCall-ID: lwsruri.{id}\nCSeq: 1 INVITE\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\n{pai}Contact: <sip:alice@192.0.2.1>\n{sdp}",
    ),
    case(
        "lwsstart",
        0,
        "INVITE  sip:deferred@im.example.org  SIP/2.0\nMax-Forwards: 8\nTo: sip:deferred@im.example.org\nFrom: sip:alice@example.net;tag=88\nCall-ID: lwsstart.{id}\nCSeq: 4 INVITE\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\n{pai}Contact: <sip:alice@192.0.2.1>\n{sdp}",
    ),
    case(
        "trws",
        200,
        "OPTIONS sip:im.example.org SIP/2.0 \nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nMax-Forwards: 8\nFrom: <sip:alice@example.org>;tag=22\nTo: sip:im.example.org\nCall-ID: trws.{id}\nCSeq: 238 OPTIONS\nContent-Length: 0\n\n",
    ),
    // Headers in the Request-URI.
    case(
        "escruri",
        200,
        "INVITE sip:deferred@im.example.org?Route=%3Csip:example.org%3E SIP/2.0\nTo: sip:deferred@im.example.org\nFrom: sip:alice@example.net;tag=34\nMax-Forwards: 6\nCall-ID: escruri.{id}\nContact: <sip:alice@192.0.2.1>\nCSeq: 1 INVITE\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\n{pai}{sdp}",
    ),
    // A date of another time zone.
    case(
        "baddate",
        200,
        "INVITE sip:deferred@im.example.org SIP/2.0\nTo: sip:deferred@im.example.org\nFrom: sip:alice@example.net;tag=22\nMax-Forwards: 70\nCall-ID: baddate.{id}\nCSeq: 1 INVITE\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nDate: Fri, 01 Jan 2010 16:00:00 EST\n{pai}Contact: <sip:alice@192.0.2.5>\n{sdp}",
    ),
    // A URI with headers, without angle brackets.
    case(
        "regbadct",
        405,
        "REGISTER sip:im.example.org SIP/2.0\nTo: sip:user@example.org\nFrom: sip:user@example.org;tag=99\nMax-Forwards: 70\nCall-ID: regbadct.{id}\nCSeq: 8 REGISTER\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nContact: sip:user@example.org?Route=%3Csip:sip.example.org%3E\nl: 0\n\n",
    ),
    // Spaces in an addr-spec.
    case(
        "badaspec",
        200,
        "OPTIONS sip:im.example.org SIP/2.0\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nMax-Forwards: 70\nFrom: \"Bell, A\" <sip:a.g.bell@example.org>;tag=43\nTo: \"Watson, T\" < sip:t.watson@example.org >\nCall-ID: badaspec.{id}\nCSeq: 3923239 OPTIONS\nl: 0\n\n",
    ),
    // A display name that needs quotes.
    case(
        "baddn",
        200,
        "OPTIONS sip:im.example.org SIP/2.0\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nMax-Forwards: 70\nFrom: Bell, A <sip:a.g.bell@example.org>;tag=43\nTo: Watson, T <sip:t.watson@example.org>\nCall-ID: baddn.{id}\nCSeq: 31 OPTIONS\nl: 0\n\n",
    ),
    // An unknown SIP version.
    case(
        "badvers",
        0,
        "OPTIONS sip:im.example.org SIP/7.0\nVia: SIP/7.0/UDP {own};rport;branch=z9hG4bK{id}\nMax-Forwards: 70\nFrom: A <sip:a@example.org>;tag=qw\nTo: T <sip:t@example.org>\nCall-ID: badvers.{id}\nCSeq: 1 OPTIONS\nl: 0\n\n",
    ),
    // Another method in CSeq.
    case(
        "mismatch01",
        200,
        "OPTIONS sip:im.example.org SIP/2.0\nTo: sip:j@example.org\nFrom: sip:alice@example.net;tag=34\nMax-Forwards: 6\nCall-ID: mismatch01.{id}\nCSeq: 8 INVITE\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nl: 0\n\n",
    ),
    case(
        "mismatch02",
        405,
        "NEWMETHOD sip:deferred@im.example.org SIP/2.0\nTo: sip:j@example.org\nFrom: sip:alice@example.net;tag=34\nMax-Forwards: 6\nCall-ID: mismatch02.{id}\nCSeq: 8 INVITE\nContact: <sip:alice@192.0.2.1>\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\n{pai}{sdp}",
    ),
    // A status of ten digits.
    case(
        "bigcode",
        0,
        "SIP/2.0 4294967301 better not break the receiver\nVia: SIP/2.0/UDP {proxy};branch=z9hG4bK4.{id}\nCall-ID: bigcode.{id}\nCSeq: 353494 INVITE\nFrom: <sip:user@example.org>;tag=39\nTo: <sip:user@example.net>;tag=1\nContent-Length: 0\n\n",
    ),
];

/// 3.2 to 3.4: transactions, applications, and RFC 2543.
const BEYOND_SYNTAX: &[Case] = &[
    // A branch that consists of the magic cookie only.
    case(
        "badbranch",
        200,
        "OPTIONS sip:im.example.org SIP/2.0\nTo: sip:user@example.org\nFrom: sip:caller@example.org;tag=33\nMax-Forwards: 3\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK\nCall-ID: badbranch.{id}\nCSeq: 8 OPTIONS\nl: 0\n\n",
    ),
    // Without Call-ID, From and To.
    case(
        "insuf",
        0,
        "INVITE sip:deferred@im.example.org SIP/2.0\nCSeq: 193942 INVITE\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\n{pai}{sdp}",
    ),
    // Unknown and unexpected URI schemes.
    case(
        "unkscm",
        200,
        "OPTIONS nobodyknows:totallyopaquecontent SIP/2.0\nTo: sip:user@example.org\nFrom: sip:caller@example.net;tag=38\nMax-Forwards: 3\nCall-ID: unkscm.{id}\nCSeq: 32 OPTIONS\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nl: 0\n\n",
    ),
    case(
        "novelsc",
        200,
        "OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0\nTo: sip:user@example.org\nFrom: sip:caller@example.net;tag=38\nMax-Forwards: 3\nCall-ID: novelsc.{id}\nCSeq: 32 OPTIONS\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nl: 0\n\n",
    ),
    case(
        "unksm2",
        405,
        "REGISTER sip:im.example.org SIP/2.0\nTo: isbn:2983792873\nFrom: <http://www.example.org>;tag=32\nMax-Forwards: 70\nCall-ID: unksm2.{id}\nCSeq: 234902 REGISTER\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nContact: <name:John_Smith>\nl: 0\n\n",
    ),
    // Extensions that a proxy and a server must know.
    case(
        "bext01",
        200,
        "OPTIONS sip:im.example.org SIP/2.0\nTo: sip:j_user@example.org\nFrom: sip:caller@example.net;tag=242\nMax-Forwards: 6\nCall-ID: bext01.{id}\nRequire: nothingSupportsThis, nothingSupportsThisEither\nProxy-Require: noProxiesSupportThis, norDoAnyProxiesSupportThis\nCSeq: 8 OPTIONS\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nContent-Length: 0\n\n",
    ),
    // A body of an unknown type that contains an MSRP path.
    case(
        "invut",
        200,
        "INVITE sip:deferred@im.example.org SIP/2.0\nContact: <sip:alice@192.0.2.1>\nTo: sip:deferred@im.example.org\nFrom: sip:alice@example.net;tag=8\nMax-Forwards: 4\nCall-ID: invut.{id}\nCSeq: 235448 INVITE\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\n{pai}Content-Type: application/unknownformat\n{length}\n\n<audio>\n <pcmu port=\"443\"/>\n</audio>\na=path:msrp://{own}/torture;tcp\n",
    ),
    // An unknown authorization scheme.
    case(
        "regaut01",
        405,
        "REGISTER sip:im.example.org SIP/2.0\nTo: sip:j_user@example.org\nFrom: sip:j_user@example.org;tag=87\nMax-Forwards: 8\nCall-ID: regaut01.{id}\nCSeq: 9338 REGISTER\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nAuthorization: NoOneKnowsThisScheme opaque-data=here\nContent-Length:0\n\n",
    ),
    // Several of each header that may occur only once.
    case(
        "multi01",
        0,
        "INVITE sip:deferred@im.example.org SIP/2.0\nContact: <sip:alice@192.0.2.1>\nCSeq: 5 INVITE\nCall-ID: multi01.{id}\nMax-Forwards: 70\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\n{pai}{pai}From: sip:alice@example.net;tag=34\nTo: sip:deferred@im.example.org\nTo: sip:other@example.net\nFrom: sip:other@example.net;tag=77\nCall-ID: multi01.second.{id}\nCSeq: 59 INVITE\nMax-Forwards: 5\nContact: <sip:other@192.0.2.2>\n{sdp}",
    ),
    // Two lengths that differ.
    case(
        "mcl01",
        0,
        "OPTIONS sip:im.example.org SIP/2.0\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nTo: sip:j_user@example.org\nFrom: sip:caller@example.net;tag=34\nMax-Forwards: 8\nContent-Length: 13\nCall-ID: mcl01.{id}\nContent-Length: 5\nCSeq: 8 OPTIONS\nContent-Type: text/plain\n\nThere's no way to know how many octets are supposed to be here.\n",
    ),
    // A response whose Via has a broadcast address.
    case(
        "bcast",
        0,
        "SIP/2.0 200 OK\nVia: SIP/2.0/UDP {proxy};branch=z9hG4bK5.{id};received=127.0.0.1\nVia: SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK6\nCall-ID: bcast.{id}\nCSeq: 35 INVITE\nFrom: sip:user@example.org;tag=11\nTo: sip:user@example.net;tag=2229\nContact: <sip:user@192.0.2.198>\n{sdp}",
    ),
    // Max-Forwards is 0.
    case(
        "zeromf",
        483,
        "OPTIONS sip:im.example.org SIP/2.0\nTo: sip:user@example.org\nFrom: sip:caller@example.net;tag=3ghsd41\nCall-ID: zeromf.{id}\nCSeq: 39234321 OPTIONS\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nMax-Forwards: 0\nContent-Length: 0\n\n",
    ),
    // Unknown parameters of a Contact header and of its URI.
    case(
        "cparam01",
        405,
        "REGISTER sip:im.example.org SIP/2.0\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nMax-Forwards: 70\nFrom: sip:watson@example.org;tag=DkfVgjkrtMwaerKKpe\nTo: sip:watson@example.org\nCall-ID: cparam01.{id}\nCSeq: 2 REGISTER\nContact: sip:+19725552222@192.0.2.2;unknownparam\nl: 0\n\n",
    ),
    case(
        "cparam02",
        405,
        "REGISTER sip:im.example.org SIP/2.0\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nMax-Forwards: 70\nFrom: sip:watson@example.org;tag=838293\nTo: sip:watson@example.org\nCall-ID: cparam02.{id}\nCSeq: 3 REGISTER\nContact: <sip:+19725552222@192.0.2.2;unknownparam>\nl: 0\n\n",
    ),
    // Headers in the URI of a Contact.
    case(
        "regescrt",
        405,
        "REGISTER sip:im.example.org SIP/2.0\nTo: sip:user@example.org\nFrom: sip:user@example.org;tag=8\nMax-Forwards: 70\nCall-ID: regescrt.{id}\nCSeq: 14398234 REGISTER\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nL:0\nContact: <sip:user@example.org?Route=%3Csip:sip.example.org%3E>\n\n",
    ),
    // Accept names an unknown type.
    case(
        "sdp01",
        200,
        "INVITE sip:deferred@im.example.org SIP/2.0\nTo: sip:deferred@im.example.org\nContact: <sip:alice@192.0.2.5>\nFrom: sip:alice@example.net;tag=234\nMax-Forwards: 5\nCall-ID: sdp01.{id}\nCSeq: 1 INVITE\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\nAccept: text/nobodyKnowsThis\n{pai}{sdp}",
    ),
    // RFC 2543 syntax: no tag, branch, Max-Forwards or Contact.
    case(
        "inv2543",
        503,
        "INVITE sip:deferred@im.example.org SIP/2.0\nVia: SIP/2.0/UDP {own}\nFrom: <sip:alice@example.net>\nRecord-Route: <sip:{proxy}>\nTo: sip:deferred@im.example.org\nCall-ID: inv2543.{id}\nCSeq: 56 INVITE\n{pai}{sdp}",
    ),
];

/// Messages that the host refuses because of one line: sent without that line, so that the rest reaches the module.
const WITHOUT_THE_LINE: &[Case] = &[case(
    "wsinv, CSeq in one line and no To tag",
    408,
    "INVITE sip:deferred@im.example.org;strange SIP/2.0\nTO :\n sip:deferred@im.example.org\nfrom   : \"A. \\\\\\\"\"       <sip:alice@example.org>\n  ;\n  tag = 98\nMaX-fOrWaRdS: 0068\nCall-ID: wsinv.{id}\ncseq: 0009 INVITE\nVia  : SIP  /   2.0\n /UDP\n    {own};rport;branch=39{id}\ns :\nBrandNewHeader:   new value\n continued new value\nHeaderOfOddValue: ;;,,;;,;\n{pai}Route:\n <sip:{proxy};lr;unknown=with;unknown-without>\nv:  SIP  / 2.0  / TCP     far.example.org   ;\n  branch  =   z9hG4bK9i  ,\n SIP  /    2.0   / UDP  192.0.2.111   ; branch=\n z9hG4bK302\nm:\"Quoted \\\"\\\"\" <sip:alice@192.0.2.1> ; newone =\n      newvalue ;\n  second ; q = 0.33\n{sdp}",
)];

/// A message as it goes over the wire.
fn render(case: &Case, socket: &UdpSocket, stage: &Stage) -> Vec<u8> {
    let own = socket.local_addr().expect("bound").to_string();
    let description = "v=0\no=- 1 1 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=message 9 TCP/MSRP *\n\
                       a=accept-types:*\na=path:msrp://{own}/torture;tcp\n";
    let text = case.text.replace("{pai}", "P-Asserted-Identity: <sip:alice@example.org>\n");
    let text = text.replace("{sdp}", &format!("Content-Type: application/sdp\n{{length}}\n\n{description}"));
    let text = text.replace("{own}", &own).replace("{proxy}", &stage.proxy.sip.to_string());
    let text = text.replace("{300}", &"long".repeat(75)).replace("{100}", &"long".repeat(25));
    let text = text.replace("{id}", &unique().to_string()).replace('\n', "\r\n");
    let octets = text.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
    text.replace("{length}", &format!("Content-Length: {octets}")).into_bytes()
}

/// Waits for a final response and returns its status; 0: none within the time.
pub fn final_status(socket: &UdpSocket, within: Duration) -> u16 {
    let asked = Instant::now();
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out can be set");
    while asked.elapsed() < within {
        let mut answer = [0; 65_536];
        let Ok(octets) = socket.recv(&mut answer) else { continue };
        let status = answer[..octets].strip_prefix(b"SIP/2.0 ").and_then(|rest| std::str::from_utf8(&rest[..3]).ok());
        match status.and_then(|status| status.parse().ok()) {
            Some(status) if status >= 200 => return status,
            _ => {}
        }
    }
    0
}

/// Starts a proxy that reserves credit for every INVITE, also with a To tag, and has short timeouts.
fn setup(setup: Setup) -> Setup {
    let timers = "modparam(\"tm\", \"fr_timer\", 2000)\nmodparam(\"imcharge\", \"tariff\", TARIFF)";
    setup
        .changed("if (has_totag())", "if (!is_method(\"INVITE\") && has_totag())")
        .changed("modparam(\"imcharge\", \"tariff\", TARIFF)", timers)
        .parameter("hold_timeout", "2")
}

#[test]
fn every_torture_message_has_its_answer_and_holds_nothing_in_the_end() {
    let stage = Stage::new(setup);
    stage.proxy.set_account(ALICE, 100_000);
    let server = stage.server(&["one"], |_| {});
    let vitals = Vitals::of(&stage.proxy);
    let cases: Vec<&Case> = [VALID, INVALID, BEYOND_SYNTAX].into_iter().flatten().collect();
    assert_eq!(cases.len(), 49);
    let cases = cases.into_iter().chain(WITHOUT_THE_LINE);
    let mut waiting = Vec::new();
    for case in cases {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.send_to(&render(case, &socket, &stage), stage.proxy.sip).expect("sent");
        vitals.assert_well(case.name);
        waiting.push((case, socket));
    }
    let mut wrong = Vec::new();
    for (case, socket) in &waiting {
        // All answers have arrived by now, except to messages that the server does not answer.
        let within = if case.status == 0 { Duration::from_millis(100) } else { PATIENCE };
        let found = final_status(socket, within);
        if found != case.status {
            wrong.push(format!("{}: {found}, not {}", case.name, case.status));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", vitals.end());
    // Each relayed INVITE passed through the module and has a separate reservation.
    let went_on = |case: &Case| case.text.starts_with("INVITE") && [200, 408].contains(&case.status);
    let granted = waiting.iter().filter(|(case, _)| went_on(case)).count() as i64;
    assert_eq!(stage.proxy.statistic("reserves_granted"), granted, "{}", vitals.end());
    drop(server);
    let over = || stage.proxy.statistic("sessions_active") == 0;
    assert!(eventually(3 * PATIENCE, over), "{}", vitals.end());
    stage.expect(ALICE, 100_000, 0, 0);
    assert_eq!(stage.proxy.count("SELECT count(*) FROM holds"), 0);
    vitals.assert_unharmed();
}
