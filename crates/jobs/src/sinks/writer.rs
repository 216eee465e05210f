//! A file that lines are appended to: by one thread, several at a time, with one sync for all of them.
//!
//! Always true:
//! - a line that is confirmed was written whole, and is on disk already where that is asked for;
//! - the file ends with a whole line: what a crash or a full disk left of one is cut off before the next is written;
//! - a path has one writer, whatever pipelines write there; the settings are those that were given last.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

/// Lines that wait for the thread.
const WAITING_MAX: usize = 4096;

/// Lines and bytes that are written in one go.
const LINES_MAX: usize = 1024;
const BYTES_MAX: usize = 1 << 20;

/// Where whole lines are looked for, from the end, at a time.
const CHUNK: u64 = 64 << 10;

/// When lines are made safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    /// Before they are confirmed.
    Always,
    /// So often.
    Every(Duration),
    /// When the system pleases.
    Never,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) sync: Sync,
    /// The file is put aside when it is so long,
    pub(super) bytes_max: Option<u64>,
    /// or so old,
    pub(super) age_max: Option<Duration>,
    /// and of those put aside so many are kept; all, if it does not say.
    pub(super) kept_max: Option<usize>,
}

/// The files that are open, by path. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Writers(Arc<Mutex<HashMap<PathBuf, Weak<Writer>>>>);

impl Writers {
    /// The writer of this file. Nothing is opened before the first line.
    pub(super) fn of(&self, path: PathBuf, settings: Settings) -> Arc<Writer> {
        let mut writers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writers.retain(|_, writer| writer.strong_count() > 0);
        if let Some(writer) = writers.get(&path).and_then(Weak::upgrade) {
            *writer.settings() = settings;
            return writer;
        }
        let writer = Arc::new(Writer { path: path.clone(), settings: Mutex::new(settings), lines: Mutex::default() });
        writers.insert(path, Arc::downgrade(&writer));
        writer
    }
}

/// One file.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    settings: Mutex<Settings>,
    /// To the thread, once there is one.
    lines: Mutex<Option<SyncSender<Line>>>,
}

/// A line, and who waits for it.
#[derive(Debug)]
struct Line {
    bytes: Vec<u8>,
    settings: Settings,
    written: oneshot::Sender<Result<(), String>>,
}

impl Writer {
    /// Appends a line; answers when it is as safe as the settings say.
    pub(super) async fn write(&self, bytes: Vec<u8>) -> Result<(), String> {
        let (written, answer) = oneshot::channel();
        self.send(Line { bytes, settings: *self.settings(), written })?;
        answer.await.unwrap_or_else(|_| Err("the file's thread has ended".into()))
    }

    fn send(&self, line: Line) -> Result<(), String> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_none() {
            *lines = Some(start(self.path.clone()).map_err(|error| format!("no thread for a file: {error}"))?);
        }
        let sender = lines.as_ref().expect("it has just been put there");
        sender.try_send(line).map_err(|error| match error {
            TrySendError::Full(_) => "too many lines wait for the file".into(),
            TrySendError::Disconnected(_) => {
                *lines = None;
                "the file's thread has ended".into()
            }
        })
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start(path: PathBuf) -> io::Result<SyncSender<Line>> {
    let (sender, lines) = sync_channel(WAITING_MAX);
    let open = Open { path, file: None, synced: true };
    std::thread::Builder::new().name("file-sink".into()).spawn(move || run(open, &lines))?;
    Ok(sender)
}

/// Ends when the writer is gone; what it had been given has been written by then.
fn run(mut open: Open, lines: &Receiver<Line>) {
    let mut sync = Sync::Never;
    loop {
        let first = match sync {
            Sync::Every(every) if !open.synced => lines.recv_timeout(every),
            _ => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match first {
            Ok(first) => {
                let batch = batch(first, lines);
                sync = batch.settings.sync;
                open.append(batch);
            }
            Err(RecvTimeoutError::Timeout) => open.sync_late(),
            Err(RecvTimeoutError::Disconnected) => return open.sync_late(),
        }
    }
}

/// Lines that are written together.
struct Batch {
    bytes: Vec<u8>,
    settings: Settings,
    waiting: Vec<oneshot::Sender<Result<(), String>>>,
}

/// The first line, and what else is there already.
fn batch(first: Line, lines: &Receiver<Line>) -> Batch {
    let mut batch = Batch { bytes: first.bytes, settings: first.settings, waiting: vec![first.written] };
    while batch.waiting.len() < LINES_MAX
        && batch.bytes.len() < BYTES_MAX
        && let Ok(line) = lines.try_recv()
    {
        batch.bytes.extend(line.bytes);
        batch.settings = line.settings;
        batch.waiting.push(line.written);
    }
    batch
}

/// The file as the thread has it.
struct Open {
    path: PathBuf,
    file: Option<Lines>,
    /// Whether all that was written is on disk.
    synced: bool,
}

/// An open file, which ends with a whole line.
struct Lines {
    file: File,
    len: u64,
    since: Instant,
    last_sync: Instant,
}

impl Open {
    fn append(&mut self, batch: Batch) {
        let Batch { bytes, settings, waiting } = batch;
        let outcome = self.try_append(&bytes, settings).map_err(|error| {
            // After an error nobody knows what the file holds: it is looked at again before the next line.
            self.file = None;
            format!("{}: {error}", self.path.display())
        });
        for written in waiting {
            // Whoever waited may have gone.
            let _ = written.send(outcome.clone());
        }
    }

    fn try_append(&mut self, bytes: &[u8], settings: Settings) -> io::Result<()> {
        self.rotate(bytes.len() as u64, settings)?;
        let lines = match &mut self.file {
            Some(lines) => lines,
            none => none.insert(Lines::open(&self.path)?),
        };
        if let Err(error) = lines.file.write_all(bytes) {
            // A full disk may have taken a part.
            lines.file.set_len(lines.len)?;
            return Err(error);
        }
        lines.len += bytes.len() as u64;
        self.synced = false;
        match settings.sync {
            Sync::Always => self.sync(),
            Sync::Every(every) if lines.last_sync.elapsed() >= every => self.sync(),
            Sync::Every(_) | Sync::Never => Ok(()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(lines) = &mut self.file {
            lines.file.sync_data()?;
            lines.last_sync = Instant::now();
        }
        self.synced = true;
        Ok(())
    }

    /// Nobody waits for the outcome; a disk that fails fails the next line too.
    fn sync_late(&mut self) {
        if let Err(error) = self.sync() {
            tracing::warn!(path = %self.path.display(), %error, "a file is not synced");
            (self.file, self.synced) = (None, true);
        }
    }

    /// Puts the file aside if it is long or old enough.
    fn rotate(&mut self, more: u64, settings: Settings) -> io::Result<()> {
        let Some(lines) = &self.file else { return Ok(()) };
        let long = settings.bytes_max.is_some_and(|max| lines.len + more > max);
        let old = settings.age_max.is_some_and(|max| lines.since.elapsed() >= max);
        if lines.len == 0 || !(long || old) {
            return Ok(());
        }
        if settings.sync != Sync::Never {
            self.sync()?;
        }
        self.file = None;
        let mut numbers = put_aside(&self.path)?;
        let number = unix_ms().max(numbers.last().map_or(0, |last| last + 1));
        fs::rename(&self.path, aside(&self.path, number))?;
        numbers.push(number);
        let old = settings.kept_max.map_or(0, |kept_max| numbers.len().saturating_sub(kept_max));
        numbers[..old].iter().try_for_each(|number| fs::remove_file(aside(&self.path, *number)))
    }
}

impl Lines {
    /// Opens the file, makes it if need be, and cuts off what a crash left of a line.
    fn open(path: &Path) -> io::Result<Lines> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let len = file.metadata()?.len();
        let whole = whole_lines(&mut file, len)?;
        if whole < len {
            tracing::warn!(path = %path.display(), bytes = len - whole, "the end of a line without its beginning is cut off");
            file.set_len(whole)?;
        }
        // What is confirmed is to be found: the file's name, and that of one that was put aside for it.
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        let now = Instant::now();
        Ok(Lines { file, len: whole, since: now, last_sync: now })
    }
}

/// How long the file is up to the end of its last whole line.
fn whole_lines(file: &mut File, len: u64) -> io::Result<u64> {
    let mut end = len;
    while end > 0 {
        let start = end.saturating_sub(CHUNK);
        let mut chunk = vec![0; (end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut chunk)?;
        if let Some(at) = chunk.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// What the file is called when it is put aside. The number is the time in milliseconds, or one more than that of the one
/// before: several may be put aside in a millisecond, clocks go back, and later ones sort behind earlier ones all the same.
fn aside(path: &Path, number: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number:014}"));
    name.into()
}

/// The numbers of those put aside, in order.
fn put_aside(path: &Path) -> io::Result<Vec<u64>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?.file_name();
        let suffix = entry.to_str().and_then(|other| other.strip_prefix(name)?.strip_prefix('.'));
        let number = suffix.filter(|suffix| suffix.len() == 14 && suffix.bytes().all(|byte| byte.is_ascii_digit()));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS: Settings = Settings { sync: Sync::Always, bytes_max: None, age_max: None, kept_max: None };

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("there is a place for temporary files")
    }

    fn content(path: &Path) -> String {
        fs::read_to_string(path).expect("the file is there")
    }

    #[tokio::test]
    async fn lines_are_there_when_they_are_confirmed() {
        let folder = folder();
        let path = folder.path().join("sub/a");
        let writer = Writers::default().of(path.clone(), ALWAYS);
        for n in 0..10 {
            writer.write(format!("{n}\n").into_bytes()).await.unwrap();
            assert!(content(&path).ends_with(&format!("{n}\n")));
        }
        assert_eq!(content(&path).lines().count(), 10);
    }

    #[tokio::test]
    async fn a_torn_line_is_cut_off() {
        let folder = folder();
        for torn in ["whole\nto", "whole\n", &format!("whole\n{}", "x".repeat(200_000))] {
            let path = folder.path().join("a");
            fs::write(&path, torn).unwrap();
            Writers::default().of(path.clone(), ALWAYS).write(b"next\n".to_vec()).await.unwrap();
            assert_eq!(content(&path), "whole\nnext\n");
        }
        let path = folder.path().join("b");
        fs::write(&path, "torn from the start").unwrap();
        Writers::default().of(path.clone(), ALWAYS).write(b"next\n".to_vec()).await.unwrap();
        assert_eq!(content(&path), "next\n");
    }

    #[tokio::test]
    async fn a_long_file_is_put_aside_and_old_ones_are_forgotten() {
        let folder = folder();
        let path = folder.path().join("a");
        let settings = Settings { bytes_max: Some(4), kept_max: Some(2), sync: Sync::Never, ..ALWAYS };
        let writer = Writers::default().of(path.clone(), settings);
        for n in 0..10 {
            writer.write(format!("{n}\n").into_bytes()).await.unwrap();
        }
        let mut files: Vec<PathBuf> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let contents: Vec<String> = files.iter().map(|path| content(path)).collect();
        assert_eq!(contents, ["8\n9\n", "4\n5\n", "6\n7\n"]);
    }

    #[tokio::test]
    async fn a_path_has_one_writer() {
        let folder = folder();
        let (writers, path) = (Writers::default(), folder.path().join("a"));
        let one = writers.of(path.clone(), ALWAYS);
        let other = writers.of(path.clone(), Settings { sync: Sync::Never, ..ALWAYS });
        assert!(Arc::ptr_eq(&one, &other));
        let (one, other) = tokio::join!(one.write(b"1\n".to_vec()), other.write(b"2\n".to_vec()));
        assert_eq!((one, other), (Ok(()), Ok(())));
        assert_eq!(content(&path).lines().count(), 2);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_tried_again() {
        let folder = folder();
        let path = folder.path().join("a");
        fs::create_dir(&path).unwrap();
        let writer = Writers::default().of(path.clone(), ALWAYS);
        assert!(writer.write(b"1\n".to_vec()).await.is_err());
        fs::remove_dir(&path).unwrap();
        writer.write(b"2\n".to_vec()).await.unwrap();
        assert_eq!(content(&path), "2\n");
    }
}
