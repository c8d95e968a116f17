//! `musaic chat`: a conversation that takes files, remembers the last track, and names what it makes.

use std::{
    io::{BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{self, ExitCode},
};

use musaic_adapters::bridge::BridgeKind;
use musaic_core::{
    Error, Result,
    role::{Cancel, DecoderSpec},
};
use serde::Serialize;

use super::{
    ask::{self, HearingProgress},
    options::{ModelOptions, SamplingOptions, SystemOptions, draw_seed, for_music, number, whole},
    progress::Progress,
    stop,
};
use crate::{
    config::RunConfig,
    failure::BadInput,
    pipeline::{
        compose::Listener,
        generate::Job,
        output::Output,
        studio::Studio,
        system::{self, Input, System},
    },
};

/// Longest line in bytes.
const MAX_LINE: u64 = 64 * 1024;
const HELP: &str = "\
Write what you want; name files anywhere in the line (\"quoted\" where they hold blanks): a track, a picture, a video.
The last track of the conversation is heard again where you name none.

/play WORDS   music in any case, also where the model would only talk
/new          a new conversation: the last track is forgotten
/help         this
/quit         the end (so is Ctrl-D)
";

/// Arguments of `musaic chat`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder that tracks are written to [default: here]
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// Program that plays a track, such as "aplay -q"; it is started with the file behind it
    #[arg(long, value_name = "COMMAND")]
    player: Option<String>,
    /// Length of a track in seconds [default: 10]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number)]
    seconds: Option<f64>,
    /// Seed of all random draws; each turn has its own from it [default: drawn, and told]
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = whole::<u64>)]
    seed: Option<u64>,
    /// Print each turn as a JSON object a line
    #[arg(long)]
    json: bool,
    /// Say nothing on the way
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    sampling: SamplingOptions,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    system: SystemOptions,
}

/// One turn, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Turn {
    schema_version: u32,
    words: String,
    inputs: Vec<String>,
    answer: String,
    track: Option<String>,
    seed: u64,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut layers = args.model.layers()?;
    args.system.apply(&mut layers);
    args.sampling.apply(&mut layers);
    layers.flag("generate.seconds", args.seconds);
    let config = for_music(&mut layers, true)?;
    if !args.folder.is_dir() {
        return Err(BadInput::new(format!("folder {}: no such folder", args.folder.display())).into());
    }
    let mut chat = Chat::open(args, &config)?;
    let stdin = std::io::stdin();
    let ours = stdin.is_terminal();
    if ours && !args.quiet {
        super::say("/help tells what there is, /quit ends");
    }
    loop {
        if ours {
            prompt()?;
        }
        let turn = match read_line(&mut stdin.lock())? {
            Line::End => break,
            Line::Bad(error) => Err(error.into()),
            Line::Text(line) => match command(&line) {
                Ok(Command::Nothing) => continue,
                Ok(Command::Quit) => break,
                Ok(Command::Help) => {
                    super::say(HELP);
                    continue;
                }
                Ok(Command::New) => {
                    chat.last_track = None;
                    continue;
                }
                Ok(Command::Say { words, wants_music }) => chat.turn(words, wants_music),
                Err(error) => Err(error.into()),
            },
        };
        if let Err(error) = turn {
            // A bad file or an unlucky answer ends a turn, not the conversation; with a script it ends both.
            if !ours || error.downcast_ref::<Error>().is_some_and(|e| matches!(e, Error::Cancelled)) {
                return Err(error);
            }
            super::failure::report(&error);
        }
        if chat.cancel.is_cancelled() {
            return Err(Error::Cancelled.into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a line asks for.
#[derive(Debug, PartialEq)]
enum Command<'a> {
    Nothing,
    Quit,
    Help,
    New,
    Say { words: &'a str, wants_music: bool },
}

/// A line begins with a command only where its first word is one; a path that begins it is a path.
fn command(line: &str) -> Result<Command<'_>, BadInput> {
    let line = line.trim();
    let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match first {
        "" => Ok(Command::Nothing),
        "/quit" => Ok(Command::Quit),
        "/help" => Ok(Command::Help),
        "/new" => Ok(Command::New),
        "/play" => Ok(Command::Say { words: rest.trim(), wants_music: true }),
        _ if first.starts_with('/') && !first[1..].contains('/') && !Path::new(first).is_file() => {
            Err(BadInput::new(format!("`{first}`: no such command")).hint("/help lists them"))
        }
        _ => Ok(Command::Say { words: line, wants_music: false }),
    }
}

fn prompt() -> Result<()> {
    let mut out = std::io::stderr();
    out.write_all(b"> ").and_then(|()| out.flush()).map_err(|e| Error::io("standard error", e))
}

/// What was read.
#[derive(Debug)]
enum Line {
    Text(String),
    /// No line that can be understood; what is behind it can be.
    Bad(BadInput),
    End,
}

/// The next line.
fn read_line(input: &mut impl BufRead) -> Result<Line> {
    let wrap = |e| Error::io("standard input", e);
    let mut line = Vec::new();
    let read = std::io::Read::take(&mut *input, MAX_LINE).read_until(b'\n', &mut line).map_err(wrap)?;
    if read as u64 == MAX_LINE && line.last() != Some(&b'\n') {
        // The rest of it is no line of its own.
        input.skip_until(b'\n').map_err(wrap)?;
        return Ok(Line::Bad(BadInput::new(format!("a line of over {MAX_LINE} bytes"))));
    }
    Ok(match String::from_utf8(line) {
        Ok(_) if read == 0 => Line::End,
        Ok(line) => Line::Text(line),
        Err(_) => Line::Bad(BadInput::new("a line that is not UTF-8")),
    })
}

/// A conversation.
struct Chat<'a> {
    args: &'a Args,
    config: &'a RunConfig,
    studio: Studio,
    last_track: Option<PathBuf>,
    number: u64,
    seed: u64,
    cancel: Cancel,
}

impl<'a> Chat<'a> {
    fn open(args: &'a Args, config: &'a RunConfig) -> anyhow::Result<Self> {
        let studio = Studio::open(config, &[])?;
        let Some(composer) = studio.composer() else {
            // Says what is missing.
            System::open(config, &[])?;
            return Err(BadInput::new("chat: no language model").into());
        };
        let seed = args.seed.unwrap_or_else(draw_seed);
        if !args.quiet {
            super::say(&ask::about(composer));
            super::say(&format!("seed {seed}"));
        }
        Ok(Self { args, config, studio, last_track: None, number: 0, seed, cancel: stop::on_interrupt() })
    }

    fn turn(&mut self, line: &str, wants_music: bool) -> anyhow::Result<()> {
        self.number += 1;
        let (words, files) = split(line);
        let mut inputs = system::look_at(&files)?;
        let has_track = inputs.iter().any(|input| input.kind == BridgeKind::Music);
        if let (false, Some(track)) = (has_track, &self.last_track) {
            inputs.push(system::look(track, Some(BridgeKind::Music))?);
        }
        let seed = self.seed.wrapping_add(self.number);
        let json = self.args.json;
        let mut listener = Shown { hearing: HearingProgress::new(inputs.len(), self.args.quiet), words: !json };
        let reply = self.studio.answer(&inputs, (&words, seed), wants_music, &self.cancel, &mut listener)?;
        if !json {
            super::print("\n")?;
        }
        let answer = reply.text.clone();
        let track = match &reply.music {
            Some(_) => Some(self.play(&words, &inputs, reply, seed)?),
            None => None,
        };
        if let Some(track) = &track {
            self.last_track = Some(track.clone());
        } else if let Some(input) = inputs.iter().find(|input| input.kind == BridgeKind::Music) {
            self.last_track = Some(input.path.clone());
        }
        if json {
            let turn = Turn {
                schema_version: 1,
                words,
                inputs: inputs.iter().map(|input| input.path.display().to_string()).collect(),
                answer,
                track: track.map(|track| track.display().to_string()),
                seed,
            };
            super::print(&format!("{}\n", serde_json::to_string(&turn)?))?;
        }
        Ok(())
    }

    /// Makes the music of a reply; gives where it is.
    fn play(&mut self, words: &str, inputs: &[Input], reply: system::Reply, seed: u64) -> anyhow::Result<PathBuf> {
        let composition = self.studio.composition(reply, inputs)?;
        let path = free(&self.args.folder);
        let output = Output::Files(vec![path.clone()]);
        let job = Job::new(self.config.clone(), words, seed, output).with_compose(Some(Vec::new()));
        let watch = |spec: &DecoderSpec| Progress::new("playing", spec.frame_rate_hz, self.args.quiet);
        let report = self.studio.play(&job, Some(composition), &self.cancel, watch)?;
        let report = report.ok_or(Error::Cancelled)?;
        if !self.args.quiet {
            super::say(&super::generate::describe(&report));
        }
        if let Some(player) = &self.args.player {
            start(player, &path)?;
        }
        Ok(path)
    }
}

/// Shows what is heard and, unless the whole turn is printed at its end, what is said.
struct Shown {
    hearing: HearingProgress,
    words: bool,
}

impl Listener for Shown {
    fn hearing(&mut self, input: &Input, done: usize, of: usize) {
        self.hearing.hearing(input, done, of);
    }

    fn words(&mut self, text: &str) -> Result<()> {
        if self.words { ask::show(text) } else { Ok(()) }
    }
}

/// `chat-N.wav` that is not there yet.
fn free(folder: &Path) -> PathBuf {
    let name = |n: u32| folder.join(format!("chat-{n}.wav"));
    (1..).map(name).find(|path| !path.exists()).unwrap_or_else(|| folder.join("chat.wav"))
}

/// Plays a file and waits for the end.
fn start(player: &str, path: &Path) -> anyhow::Result<()> {
    let mut words = player.split_whitespace();
    let program = words.next().unwrap_or_default();
    let status = process::Command::new(program).args(words).arg(path).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(BadInput::new(format!("player `{player}`: {status}")).into()),
        Err(error) => Err(BadInput::new(format!("player `{player}`: {error}")).into()),
    }
}

/// The words of a line, and the files that it names.
fn split(line: &str) -> (String, Vec<PathBuf>) {
    let (mut words, mut files) = (Vec::new(), Vec::new());
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (word, behind) = match rest.strip_prefix('"').and_then(|inside| inside.split_once('"')) {
            Some((word, behind)) => (word, behind),
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        rest = behind.trim_start();
        if !word.is_empty() && Path::new(word).is_file() {
            files.push(PathBuf::from(word));
        } else {
            words.push(word);
        }
    }
    (words.join(" "), files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_from_words() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("my song.wav");
        std::fs::write(&file, "x").unwrap();
        let (words, files) = split(&format!("make \"{}\" slower, \"please\"", file.display()));
        assert_eq!((words.as_str(), files), ("make slower, please", vec![file]));
        assert_eq!(split("  no files  here "), ("no files here".to_owned(), Vec::new()));
    }

    #[test]
    fn names_are_never_taken_twice() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(free(folder.path()), folder.path().join("chat-1.wav"));
        std::fs::write(folder.path().join("chat-1.wav"), "x").unwrap();
        assert_eq!(free(folder.path()), folder.path().join("chat-2.wav"));
    }

    #[test]
    fn commands_are_told_from_paths() {
        let say = |words| Command::Say { words, wants_music: false };
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert_eq!(command(" /play calm piano \n").unwrap(), Command::Say { words: "calm piano", wants_music: true });
        assert_eq!(command("/quit\n").unwrap(), Command::Quit);
        assert_eq!(command("\n").unwrap(), Command::Nothing);
        for line in ["/playlists/x.mp3", "/new/x.mp3 slower", file, "and /play is a word"] {
            assert_eq!(command(line).unwrap(), say(line));
        }
        for line in ["/playlists", "/plya calm", "/"] {
            assert!(command(line).unwrap_err().to_string().contains("no such command"), "{line}");
        }
    }

    #[test]
    fn lines_end_and_are_bounded() {
        let long = [vec![b'x'; 2 * MAX_LINE as usize], b"\ntwo\n\xff\nthree".to_vec()].concat();
        let mut input = &long[..];
        let mut next = || match read_line(&mut input).unwrap() {
            Line::Text(text) => text,
            Line::Bad(error) => error.to_string(),
            Line::End => "the end".into(),
        };
        let over = format!("a line of over {MAX_LINE} bytes");
        for expected in [&over, "two\n", "a line that is not UTF-8", "three", "the end"] {
            assert_eq!(next(), expected);
        }
    }
}
