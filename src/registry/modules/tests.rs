//! Code moves from the registry to the code dir, and out of it again.

use std::os::unix::fs::MetadataExt;

use rusqlite::Connection;

use super::*;
use crate::registry::create::INIT_SQL;
use crate::registry::fixture::{Fixture, execute, names_in};

/// A registry without routes.
fn fixture() -> Fixture {
    Fixture::with(&format!("{INIT_SQL} DELETE FROM functions; DELETE FROM modules;"))
}

fn module(fixture: &Fixture, name: &str, code: &[u8]) {
    let sql = "INSERT INTO modules (name, code) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET code = excluded.code";
    Connection::open(&fixture.db).unwrap().execute(sql, (name, code)).unwrap();
}

fn row(fixture: &Fixture, path: &str, module: &str) {
    let descriptor = format!(r#"{{"runtime":"php","module":"db:{module}"}}"#);
    let sql = "INSERT OR REPLACE INTO functions (k, v) VALUES (?1, ?2)";
    Connection::open(&fixture.db).unwrap().execute(sql, (format!("GET:{path}"), descriptor)).unwrap();
}

fn path_of(fixture: &Fixture, route: &str) -> PathBuf {
    fixture.function(route).unwrap().module.clone()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn code_dir(fixture: &Fixture) -> PathBuf {
    fixture.folder.join("code")
}

#[test]
fn a_bundle_lies_in_one_read_only_folder() {
    let mut fixture = fixture();
    module(&fixture, "shop/index.php", b"<?php");
    module(&fixture, "shop/lib/deep/cart.php", b"<?php // cart");
    module(&fixture, "shop/run", b"#!/bin/sh\n");
    module(&fixture, "shop.php", b"<?php // another bundle");
    row(&fixture, "/shop", "shop/index.php");
    assert!(fixture.sync.look());
    let index = path_of(&fixture, "/shop");
    let shop = index.parent().unwrap();
    assert_eq!(fs::read(shop.join("lib/deep/cart.php")).unwrap(), b"<?php // cart");
    assert_eq!(mode(&code_dir(&fixture)), 0o711);
    assert_eq!([mode(shop), mode(&shop.join("lib/deep"))], [0o555, 0o555]);
    assert_eq!([mode(&index), mode(&shop.join("run"))], [0o444, 0o555]);
    assert_eq!(names_in(shop), ["index.php", "lib", "run"]);
    assert_eq!(names_in(&code_dir(&fixture)).len(), 1, "a bundle that no row names is not written");
}

#[test]
fn a_change_of_code_brings_its_rows_a_new_folder_and_leaves_others() {
    let mut fixture = fixture();
    for name in ["a.php", "b.php"] {
        module(&fixture, name, b"<?php // one");
        row(&fixture, &format!("/{name}"), name);
    }
    fixture.sync.look();
    let (a, b) = (fixture.function("/a.php").unwrap(), fixture.function("/b.php").unwrap());
    module(&fixture, "a.php", b"<?php // two");
    assert!(fixture.sync.look());
    assert!(Arc::ptr_eq(&b, &fixture.function("/b.php").unwrap()));
    assert_eq!(fs::read(path_of(&fixture, "/a.php")).unwrap(), b"<?php // two");
    assert_eq!(fs::read(&a.module).unwrap(), b"<?php // one", "a call that runs keeps its code");
    // Back again: the folder of the first version serves again.
    module(&fixture, "a.php", b"<?php // one");
    assert!(fixture.sync.look());
    assert_eq!(path_of(&fixture, "/a.php"), a.module);
}

#[test]
fn text_counts_as_its_utf_8_bytes() {
    let mut fixture = fixture();
    execute(&fixture.db, "INSERT INTO modules (name, code) VALUES ('t.php', '<?php // ü')");
    row(&fixture, "/t", "t.php");
    assert!(fixture.sync.look());
    assert_eq!(fs::read(path_of(&fixture, "/t")).unwrap(), "<?php // ü".as_bytes());
}

#[test]
fn lost_files_are_written_again() {
    let mut fixture = fixture();
    module(&fixture, "a.php", b"<?php");
    row(&fixture, "/a", "a.php");
    fixture.sync.look();
    let path = path_of(&fixture, "/a");
    for damage in [&remove_folder as &dyn Fn(&Path) -> io::Result<()>, &|folder| {
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        fs::remove_file(folder.join("a.php"))
    }] {
        damage(path.parent().unwrap()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !path.is_file() {
            assert!(Instant::now() < deadline);
            fixture.sync.look();
        }
        assert_eq!(fs::read(&path).unwrap(), b"<?php");
    }
}

#[test]
fn a_code_dir_that_cannot_be_written_leaves_the_last_version_in_service() {
    let mut fixture = fixture();
    module(&fixture, "a.php", b"<?php // one");
    row(&fixture, "/a", "a.php");
    fixture.sync.look();
    let generation = fixture.kv.generation();
    // For root, only a file in its place keeps a folder from being created.
    let (code_dir, aside) = (code_dir(&fixture), fixture.folder.join("aside"));
    fs::rename(&code_dir, &aside).unwrap();
    fs::write(&code_dir, "in the way").unwrap();
    module(&fixture, "a.php", b"<?php // two");
    row(&fixture, "/new", "a.php");
    assert!(!fixture.sync.look());
    assert!(fixture.function("/new").is_none() && fixture.kv.generation() == generation);
    fs::remove_file(&code_dir).unwrap();
    fs::rename(&aside, &code_dir).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while fixture.function("/new").is_none() {
        assert!(Instant::now() < deadline);
        fixture.sync.look();
    }
    assert_eq!(fs::read(path_of(&fixture, "/a")).unwrap(), b"<?php // two");
}

#[test]
fn unused_folders_are_removed_and_held_ones_stay() {
    let root = std::env::temp_dir().join(format!("faas-code-{}", std::process::id()));
    let make = |name: &str| {
        fs::create_dir_all(root.join(name).join("sub")).unwrap();
        fs::set_permissions(root.join(name), Permissions::from_mode(FOLDER_MODE)).unwrap();
        Arc::new(CodeFolder { path: root.join(name), files: Vec::new(), can_execute: true })
    };
    let (held, unused) = (make("held"), make("unused"));
    let long_ago = Instant::now().checked_sub(UNUSED_KEPT.max(CHECK_PERIOD)).unwrap();
    let retired = vec![(held.clone(), Some(long_ago)), (unused, Some(long_ago))];
    let mut code_dir = CodeDir { candidates: Vec::new(), root: None, retired, checked: long_ago, is_alone: true };
    code_dir.check(&mut Bundles::default());
    assert!(root.join("held").exists() && !root.join("unused").exists());
    drop(held);
    remove_folder(&root).unwrap();
}

#[test]
fn a_row_without_its_module_has_a_fault() {
    let mut fixture = Fixture::with("CREATE TABLE functions (k TEXT PRIMARY KEY, v TEXT, updated)");
    row(&fixture, "/a", "none.php");
    fixture.sync.look();
    assert!(fixture.fault("/a").starts_with("module is db:none.php; it must be a module that the registry has"));
}

#[test]
fn the_next_gateway_finds_the_code_dir_as_the_last_one_left_it() {
    let mut fixture = fixture();
    module(&fixture, "a.php", b"<?php");
    row(&fixture, "/a", "a.php");
    fixture.sync.look();
    let path = path_of(&fixture, "/a");
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let before = inode(&path);
    let kv = Arc::new(crate::registry::kv::Kv::new());
    let settings = crate::registry::fixture::settings(&fixture.db, &fixture.folder.join("run"));
    fixture.sync = crate::registry::kv_sqlite_sync::Sync::new(&settings, kv.clone(), None, |_| {});
    fixture.kv = kv;
    assert!(fixture.sync.look());
    assert_eq!((path_of(&fixture, "/a"), inode(&path)), (path.clone(), before), "nothing is written twice");
}
