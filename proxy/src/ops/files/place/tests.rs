//! Which paths are let through to the kernel, and what they become there.

use super::*;

fn below(path: &str) -> Result<String, String> {
    let roots = [PathBuf::from("/data"), PathBuf::from("/etc/app")];
    place(&roots, path).map(|place| format!("{}|{}", place.root.display(), place.below.display()))
}

#[test]
fn a_path_belongs_to_the_root_whose_whole_name_it_begins_with() {
    assert_eq!(below("/data/a/b").as_deref(), Ok("/data|a/b"));
    assert_eq!(below("/etc/app/x").as_deref(), Ok("/etc/app|x"));
    assert_eq!(below("/data").as_deref(), Ok("/data|."));
    assert_eq!(below("/data/").as_deref(), Ok("/data|."));
    assert_eq!(below("/data/./a").as_deref(), Ok("/data|a"));
    for bad in [
        "",
        "/",
        "/data-evil/x",
        "/dat",
        "/etc/passwd",
        "/etc/app2",
        "a",
        "/data/../etc",
        "..",
        "/data/a/..",
        "/data//a",
        "//data/a",
        "/data/a\0b",
        "/data/a\nb",
    ] {
        assert!(below(bad).is_err(), "{bad:?}: {:?}", below(bad));
    }
    let one = [PathBuf::from("/data")];
    let place = place(&one, "a/b").expect("there is one root");
    assert_eq!(place.shown(), "/data/a/b");
}
