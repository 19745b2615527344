//! Checks the links of all Markdown files: each relative link leads to a file, and each anchor to a heading. Checks the
//! size of the README too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Folders that are not part of the sources.
const OTHER_FOLDERS: [&str; 3] = ["target", "out", ".git"];

/// Adds the Markdown files of a folder and of its subfolders.
fn find_pages(folder: &Path, pages: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && !OTHER_FOLDERS.iter().any(|other| name == *other) {
            find_pages(&path, pages);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
}

/// Returns the lines of a page outside code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

/// Returns a line without its inline code.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// Returns the anchors of a page's headings, as GitHub forms them: lower case, without punctuation, hyphens for blanks, and
/// a number after a heading that occurs again.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings = prose(text).filter(|line| line.starts_with('#'));
    let titles = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let anchors = titles.map(|title| {
        let kept = title.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let count = seen.entry(anchor.clone()).or_default();
        *count += 1;
        if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
    });
    anchors.collect()
}

/// Returns the targets of the links of a page, `[text](target)`, except links to other sites.
fn links(text: &str) -> Vec<String> {
    let lines: Vec<String> = prose(text).map(without_code).collect();
    let page = lines.join("\n");
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).filter(|target| !target.contains("://")).collect()
}

/// Resolves `..` and `.` of a path.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut whole, part| {
        match part {
            Component::ParentDir => _ = whole.pop(),
            Component::CurDir => {}
            part => whole.push(part),
        }
        whole
    })
}

#[test]
fn every_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = Vec::new();
    find_pages(root, &mut pages);
    let (mut checked, mut broken) = (0, Vec::new());
    for page in &pages {
        let text = fs::read_to_string(page).expect("a page is text");
        for link in links(&text) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => page.clone(),
                path => normal(&page.parent().expect("a page is in a folder").join(path)),
            };
            let found = target.exists()
                && (anchor.is_empty() || anchors(&fs::read_to_string(&target).unwrap_or_default()).contains(anchor));
            if !found {
                broken.push(format!("{}: {link}", page.strip_prefix(root).unwrap_or(page).display()));
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} links were found");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_page_is_in_the_index() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let index = fs::read_to_string(docs.join("README.md")).expect("there is an index");
    let linked: BTreeSet<String> = links(&index).into_iter().collect();
    for page in fs::read_dir(&docs).expect("a readable folder").flatten() {
        let name = page.file_name().to_string_lossy().into_owned();
        assert!(name == "README.md" || linked.contains(&name), "docs/README.md has no link to {name}");
    }
}

#[test]
fn the_readme_is_short() {
    const OCTETS_MAX: usize = 10 * 1024;
    let readme = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("there is one");
    assert!(readme.len() <= OCTETS_MAX, "{} octets, more than {OCTETS_MAX}: move something to docs/", readme.len());
}

#[test]
fn anchors_are_those_of_github() {
    let text =
        "# `imcharge_reserve(route[, messages])`\n## Not guaranteed\n```\n# no heading\n```\n## Not guaranteed\n";
    let expected = ["imcharge_reserveroute-messages", "not-guaranteed", "not-guaranteed-1"];
    assert_eq!(anchors(text), expected.into_iter().map(str::to_owned).collect());
}

#[test]
fn links_in_code_and_to_other_sites_are_not_followed() {
    let text =
        "[a](b.md#c) `[no](link)` [web](https://example.org/)\n```\n[no](code.md)\n```\n[two](d.md), [three](#e)";
    assert_eq!(links(text), ["b.md#c", "d.md", "#e"]);
}
