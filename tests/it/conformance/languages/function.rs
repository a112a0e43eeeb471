//! A WASI function in Rust, for languages.rs. The query names the task. Uses the standard library only.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, fs, process, thread};

fn main() -> io::Result<()> {
    let query = env::var("QUERY_STRING").unwrap_or_default();
    match query.as_str() {
        "echo" => {
            io::copy(&mut io::stdin(), &mut io::stdout())?;
        }
        "count" => {
            let mut body = Vec::new();
            io::stdin().read_to_end(&mut body)?;
            println!("{}", body.len());
        }
        "environment" => {
            let variables: HashMap<String, String> = env::vars().collect();
            println!("{} {}", variables["IT_ANSWER"], env::args().count());
        }
        "clocks" => {
            let (began, pause) = (Instant::now(), Duration::from_millis(20));
            thread::sleep(pause);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
            let asked: i64 = env::var("HTTP_X_NOW").unwrap().parse().unwrap();
            println!("{} {}", began.elapsed() >= pause, (0..20_000).contains(&(now - asked)));
        }
        "randoms" => println!("{:x}", RandomState::new().hash_one(0)),
        "scratch" => {
            // env::temp_dir() panics on WASI.
            let folder = PathBuf::from(env::var("TMPDIR").unwrap());
            let file = folder.join("file");
            print!("{} ", if file.exists() { "old" } else { "fresh" });
            fs::write(&file, "content")?;
            fs::create_dir(folder.join("folder"))?;
            fs::rename(&file, folder.join("folder/file"))?;
            let names: Vec<_> = fs::read_dir(&folder)?.map(|entry| entry.unwrap().file_name()).collect();
            println!("{} {names:?}", fs::read_to_string(folder.join("folder/file"))?);
        }
        "elsewhere" => {
            let above = format!("{}/../../../../../etc/passwd", env::var("TMPDIR").unwrap());
            println!("{}", fs::read("/etc/passwd").is_err() && fs::read(above).is_err());
        }
        "grows" => {
            let pieces: Vec<Vec<u8>> = (0..).map(|_| vec![1; 1 << 20]).take_while(|piece| !piece.is_empty()).collect();
            println!("{}", pieces.len());
        }
        "hangs" => loop {
            std::hint::spin_loop();
        },
        "head" => print!("Status: 201 Created\r\nContent-Type: text/csv\r\n\r\na,b\n"),
        "errors" => {
            io::stderr().write_all(b"said on stderr\n")?;
            println!("done");
        }
        "exit" => process::exit(3),
        "fails" => panic!("out of luck"),
        other => println!("no such deed: {other}"),
    }
    Ok(())
}
