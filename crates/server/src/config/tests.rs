use super::written::{
    WrittenApp, WrittenFirehose, WrittenFirehoseToken, WrittenHistory, WrittenIngest, WrittenKey, WrittenLimits,
    WrittenPipeline, WrittenPushStream, WrittenQueue, WrittenRedis, WrittenRollout, WrittenTemplates, WrittenTls,
};
use super::*;

const EXAMPLE: &str = include_str!("../../../../fanfare.example.toml");

const APP: &str = r#"
[[apps]]
id = "7"
keys = [{ key = "k", secret = "s" }]
"#;

/// Loads a file with this text under this environment, and says of an error what a user would read.
fn load_all(text: &str, environment: &[(&str, &str)], flags: Flags) -> Result<Config, String> {
    let source = Source {
        file: None,
        environment: environment.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect(),
        flags,
    };
    let checked = source.checked(Path::new("fanfare.toml"), text);
    checked.map_err(|error| error.to_string())
}

fn load(text: &str) -> Result<Config, String> {
    load_all(text, &[], Flags::default())
}

#[track_caller]
fn refused(text: &str, message: &str) {
    assert_eq!(load(text).expect_err("refused"), message);
}

#[test]
fn the_example_holds_every_key_with_its_default() {
    let config = load(EXAMPLE).expect("the example checks out");
    let app = AppSettings {
        name: "my app".into(),
        ..AppSettings::new("1001", Key::new("change-this-key", "change-this-secret"))
    };
    let expected = Config { apps: vec![app], dev: false, ..Config::default() };
    assert_eq!(config, expected);

    let (top, rest) = EXAMPLE.split_once("\n[[apps]]").expect("the example has an app");
    let (app, rest) = rest.split_once("\n[apps.limits]").expect("and its limits");
    let (limits, rest) = rest.split_once("\n[apps.rollout]").expect("and its rollout");
    let (rollout, rest) = rest.split_once("\n#[[apps.history]]").expect("and a history rule");
    let (history, rest) = rest.split_once("\n#[[apps.queues]]").expect("and a queue");
    let (queues, rest) = rest.split_once("\n#[[apps.pipelines]]").expect("and a pipeline");
    let (pipelines, rest) = rest.split_once("\n#[apps.firehose]").expect("and a firehose");
    let (firehose, firehose_token) = rest.split_once("\n#[[apps.firehose.tokens]]").expect("and a token of it");
    let (_, ingest) = top.split_once("\n#[ingest]").expect("it shows what pipelines share");
    let (_, tls) = top.split_once("\n#[tls]").expect("it shows TLS");
    let (_, redis) = top.split_once("\n#[redis]").expect("and Redis");
    let (_, push_stream) = top.split_once("\n#[push_stream]").expect("and push-stream");
    for (text, keys) in [
        (top, Written::KEYS),
        (app, WrittenApp::KEYS),
        (limits, WrittenLimits::KEYS),
        (rollout, WrittenRollout::KEYS),
        (history, WrittenHistory::KEYS),
        (queues, WrittenQueue::KEYS),
        (pipelines, WrittenPipeline::KEYS),
        (firehose, WrittenFirehose::KEYS),
        (firehose_token, WrittenFirehoseToken::KEYS),
        (ingest, WrittenIngest::KEYS),
        (tls, WrittenTls::KEYS),
        (push_stream, WrittenPushStream::KEYS),
        (push_stream, WrittenTemplates::KEYS),
        (redis, WrittenRedis::KEYS),
    ] {
        for key in keys.iter().filter(|key| !TABLES.contains(key)) {
            let begins = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(&format!("{key} = "));
            assert!(text.lines().any(begins), "{key} is not in the example");
        }
    }
    for key in WrittenKey::KEYS {
        assert!(app.contains(&format!("{key} = \"change-this")), "{key} is not in the example");
    }
}

/// Tables within tables, which are looked at by themselves.
const TABLES: [&str; 18] = [
    "apps",
    "tls",
    "push_stream",
    "redis",
    "limits",
    "rollout",
    "history",
    "queues",
    "firehose",
    "tokens",
    "stages",
    "ingest",
    "pipelines",
    "streaming",
    "polling",
    "long_polling",
    "eventsource",
    "websocket",
];

#[test]
fn what_the_example_shows_commented_out_is_the_default_too() {
    let scene = tempfile::tempdir().expect("there is a temporary directory");
    for name in ["cert.pem", "key.pem", "redis-ca.pem"] {
        std::fs::write(scene.path().join(name), "").expect("the directory is ours");
    }
    // A comment begins with `# `, and what is only switched off with `#`.
    let on = |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned();
    let text: Vec<String> = EXAMPLE.lines().map(on).collect();
    let text = text.join("\n").replace("/etc/fanfare", scene.path().to_str().expect("plain"));
    let config = load(&text).expect("it checks out");
    assert_eq!(config.tls.map(|tls| tls.key), Some(scene.path().join("key.pem")));
    assert_eq!(config.push_stream, Some(PushStreamSettings::new("1001".into())));
    assert_eq!(config.apps[0].history.len(), 1);
    assert_eq!(config.apps[0].history[0].retention, Some(Retention::default()));
    let [queue] = &config.apps[0].queues[..] else { panic!("one queue is shown") };
    let expected = ("comments", Durability::Disk, fanfare_jobs::Limits::default());
    assert_eq!((&*queue.name, queue.durability, queue.limits), expected);
    assert_eq!((queue.lease, queue.concurrency), (Duration::from_secs(30), 64));
    let [pipeline] = &config.apps[0].pipelines[..] else { panic!("one pipeline is shown") };
    assert_eq!((pipeline.stages.len(), pipeline.sinks.len(), pipeline.shadow), (2, 1, false));
    assert_eq!((config.ingest.faults, config.ingest.stuck_after), (false, Duration::from_secs(60)));
    let shown = config.apps[0].firehose.clone().expect("there is one");
    let token = "[[apps.firehose.tokens]]\nname = \"a\"\ntoken = \"change-this-token\"\n";
    let least = load(&format!("data_dir = \"there\"\n{APP}{token}")).expect("it checks out").apps[0].firehose.clone();
    let least = least.expect("there is one");
    assert_eq!(shown, FirehoseSettings { tokens: shown.tokens.clone(), ..least });
}

#[test]
fn a_firehose_needs_tokens_that_are_right() {
    let firehose = |rest: &str| format!("data_dir = \"\"{APP}[apps.firehose]\n{rest}");
    let token = |rest: &str| firehose(&format!("tokens = [{{ name = \"a\", token = \"0123456789abcdef\"{rest} }}]\n"));
    let config = load(&token("")).expect("it checks out");
    let settings = config.apps[0].firehose.as_ref().expect("there is one");
    assert_eq!((settings.durability, settings.tokens[0].connections_max), (Durability::Memory, 4));
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
    let needs = "fanfare.toml:5: a firehose needs `tokens`, such as tokens = [{ name = \"…\", token = \"…\" }]";
    refused(&firehose(""), needs);
    let short = "tokens = [{ name = \"a\", token = \"short\" }]";
    refused(&firehose(short), "fanfare.toml:6: the token \"a\" has fewer than 16 characters");
    refused(
        &token("").replace("tokens", "durability = \"disk\"\ntokens"),
        "fanfare.toml:6: a firehose on disk needs a `data_dir`; durability = \"memory\" does without",
    );
    let wrong = load(&token(", filter = \"data ==\"")).expect_err("the filter is none");
    assert!(wrong.starts_with("fanfare.toml:6: the filter of \"a\": "), "{wrong}");
    let shared = format!("{}[redis]\nservers = [\"redis://127.0.0.1:6379\"]\n", token(""));
    let shared = load(&shared).expect("nodes may share one");
    assert_eq!(shared.apps[0].firehose.as_ref().map(|firehose| firehose.durability), Some(Durability::Disk));
}

#[test]
fn servers_on_other_ports_keep_their_data_elsewhere() {
    let dir = |text: &str| load(text).expect("sound").data_dir;
    assert_eq!(dir("listen = \"127.0.0.1:7001\""), Some("fanfare-data/7001".into()));
    assert_eq!(dir("listen = \"127.0.0.1:0\""), None);
    assert_eq!(dir("data_dir = \"/var/lib/fanfare\""), Some("/var/lib/fanfare".into()));
    assert_eq!(dir("data_dir = \"\""), None);
    let flags = Flags { data_dir: Some("here".into()), ..Flags::default() };
    let config = load_all("", &[("FANFARE_DATA_DIR", "there")], flags).expect("sound");
    assert_eq!(config.data_dir, Some("here".into()));
}

#[test]
fn tls_takes_two_files_that_are_there() {
    refused("[tls]\ncert = \"/nowhere/cert.pem\"\n", "fanfare.toml:2: a certificate needs its `key` too");
    refused("[tls]\nkey = \"/nowhere/key.pem\"\n", "fanfare.toml:2: a key needs its `cert` too");
    refused(
        "[tls]\nkey = \"/nowhere/key.pem\"\ncert = \"/nowhere/cert.pem\"\n",
        "fanfare.toml:3: cannot read \"/nowhere/cert.pem\": No such file or directory (os error 2)",
    );
    refused("[tls]\ncrt = \"x\"\n", "fanfare.toml:2: unknown key `crt`; the nearest known key is `cert`");
    assert_eq!(load("[tls]\n").expect("nothing is said").tls, None);
}

#[test]
fn push_stream_shows_an_app_that_is_there_on_a_listener_of_its_own() {
    refused(
        "[push_stream]\nlisten = \"127.0.0.1:1\"\n",
        "fanfare.toml:1: `[push_stream]` needs `app`: the id of the app whose channels it shows",
    );
    refused("[push_stream]\napp = 8\n", "fanfare.toml:2: there is no app with the id \"8\"");
    refused(
        "[push_stream]\napp = 1\nlisten = \"127.0.0.1:6001\"\n",
        "fanfare.toml:3: 127.0.0.1:6001 is another listener's already",
    );
    refused(
        "[push_stream]\napp = 1\npublish_from = [\"127.0.0.0/33\"]\n",
        "fanfare.toml:3: expected a network such as \"10.0.0.0/8\" or \"::1\", found \"127.0.0.0/33\"",
    );
    refused(
        "[push_stream]\napp = 1\n[push_stream.streaming]\nfooter_templat = \"x\"\n",
        "fanfare.toml:4: unknown key `footer_templat`; the nearest known key is `footer_template`",
    );
    let config = load("[push_stream]\napp = 1\nstreaming.footer_template = \"bye\"\n").expect("sound");
    assert_eq!(config.push_stream.map(|settings| settings.streaming.footer), Some("bye".into()));
}

#[test]
fn a_history_rule_names_its_channels() {
    refused(
        &format!("{APP}[[apps.history]]\nmessages = 5\n"),
        "fanfare.toml:5: a history rule needs `channels`: a name, or a beginning and `*`",
    );
    refused(
        &format!("{APP}[[apps.history]]\nchannels = \"a*b\"\n"),
        "fanfare.toml:6: '*' in a channel name: only letters, digits and _ - = @ , . ; are allowed",
    );
    refused(
        &format!("{APP}[[apps.history]]\nchannels = \"a\"\nmessages = 0\n"),
        "fanfare.toml:7: expected a whole number from 1 to 1000000, found 0",
    );
    refused(
        &format!("{APP}[[apps.history]]\nchannel = \"a\"\n"),
        "fanfare.toml:6: unknown key `channel`; the nearest known key is `channels`",
    );
}

#[test]
fn nothing_configured_is_the_development_app_on_loopback() {
    let config = load("").expect("sound");
    assert!(config.dev);
    assert_eq!(config, Config::default());
    assert!(config.apps[0].is_development() && config.apps[0].client_events);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    refused(
        "# a comment\n\nlisen = \"127.0.0.1:1\"\n",
        "fanfare.toml:3: unknown key `lisen`; the nearest known key is `listen`",
    );
    refused(
        &format!("{APP}client_evnts = true\n"),
        "fanfare.toml:5: unknown key `client_evnts`; the nearest known key is `client_events`",
    );
    refused(
        &format!("{APP}[apps.limits]\nconections_max = 1\n"),
        "fanfare.toml:6: unknown key `conections_max`; the nearest known key is `connections_max`",
    );
    refused(
        "[[apps]]\nid = 1\nkeys = [\n  { key = \"k\", secrt = \"s\" },\n]\n",
        "fanfare.toml:4: unknown key `secrt`; the nearest known key is `secret`",
    );
    refused("[[app]]\nid = 1\n", "fanfare.toml:1: unknown key `app`; the nearest known key is `apps`");
}

#[test]
fn a_key_in_the_wrong_table_is_sent_home() {
    refused(
        &format!("{APP}drain_s = 5\n"),
        "fanfare.toml:5: `drain_s` belongs in the top of the file, before any [table], not here",
    );
    refused(
        &format!("{APP}connections_max = 5\n"),
        "fanfare.toml:5: `connections_max` belongs in [apps.limits], not here",
    );
}

#[test]
fn a_wrong_type_is_named_with_its_line_and_what_was_expected() {
    refused("listen = 6001\n", "fanfare.toml:1: invalid type: integer `6001`, expected a string");
    refused(
        "\ndrain_s = \"ten\"\n",
        "fanfare.toml:2: invalid type: string \"ten\", expected a whole number from 0 to 4294967295",
    );
    refused(
        "drain_s = -1\n",
        "fanfare.toml:1: invalid value: integer `-1`, expected a whole number from 0 to 4294967295",
    );
    refused("deflate = 1\n", "fanfare.toml:1: invalid type: integer `1`, expected true or false");
    refused(
        "[[apps]]\nid = 1.5\n",
        "fanfare.toml:2: invalid type: floating point `1.5`, expected a string or a whole number",
    );
    refused("[[apps]]\nid = 1\nkeys = \"k\"\n", "fanfare.toml:3: invalid type: string \"k\", expected a list");
}

#[test]
fn text_that_is_not_toml_is_named_with_its_line() {
    let error = load("loops = 1\nlisten = \n").expect_err("refused");
    assert!(error.starts_with("fanfare.toml:2: "), "{error}");
}

#[test]
fn a_wrong_value_is_named_with_its_line_and_what_was_expected() {
    refused(
        "listen = \"6001\"",
        "fanfare.toml:1: expected an address and a port such as \"127.0.0.1:6001\", found \"6001\"",
    );
    refused("loops = 1\nactivity_timeout_s = 0\n", "fanfare.toml:2: expected a whole number from 1 to 86400, found 0");
    refused("path_prefix = \"realtime\"", "fanfare.toml:1: expected a path such as \"/realtime\", found \"realtime\"");
    refused("listen = \"127.0.0.1:9601\"", "fanfare.toml:1: `listen` and `admin_listen` are both 127.0.0.1:9601");
    refused(
        &format!("{APP}allowed_origins = [\"a.example\",\n \"https://\"]"),
        "fanfare.toml:6: expected an origin such as \"https://example.com\" or \"*.example.com\", found \"https://\"",
    );
    refused(
        &format!("{APP}limits = {{ payload_bytes_max = 2000000 }}"),
        "fanfare.toml:5: expected a whole number from 1 to 1048576, found 2000000",
    );
    assert!(load("log = \"fanfare=loud\"").is_err());
}

#[test]
fn an_app_lacks_nothing() {
    refused("loops = 1\n[[apps]]\nname = \"x\"\n", "fanfare.toml:2: this app needs an `id`");
    refused(
        "[[apps]]\nid = 1\n",
        "fanfare.toml:1: this app needs `keys`, such as keys = [{ key = \"…\", secret = \"…\" }]",
    );
    refused("[[apps]]\nid = 1\nkeys = []\n", "fanfare.toml:3: an app needs at least one key");
    refused("[[apps]]\nid = 1\nkeys = [{ key = \"k\" }]\n", "fanfare.toml:3: the key \"k\" needs a `secret`");
    refused(
        "[[apps]]\nid = \"a/b\"\n",
        "fanfare.toml:2: expected an id of letters, digits, `-`, `_`, `.` and `~`, found \"a/b\"",
    );
}

#[test]
fn no_two_apps_share_an_id_or_a_key() {
    refused(&format!("{APP}{APP}"), "fanfare.toml:7: another app has the id \"7\" already");
    refused(
        &format!(
            "{APP}[[apps]]\nid = 8\nkeys = [{{ key = \"j\", secret = \"s\" }},\n{{ key = \"k\", secret = \"s\" }}]\n"
        ),
        "fanfare.toml:8: the key \"k\" is used twice",
    );
}

#[test]
fn an_id_may_be_a_number() {
    let config = load("[[apps]]\nid = 42\nkeys = [{ key = \"k\", secret = \"s\" }]\n").expect("sound");
    assert_eq!(&*config.apps[0].id, "42");
    assert_eq!(&*config.apps[0].name, "42");
    assert!(!config.dev);
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let flags = Flags { loops: Some(3), ..Flags::default() };
    let environment = [("FANFARE_LOOPS", "2"), ("FANFARE_DRAIN_S", "5"), ("FANFARE_DEFLATE", "false")];
    let config = load_all("loops = 1\ndrain_s = 4\nlog = \"warn\"\n", &environment, flags).expect("sound");
    assert_eq!((config.loops, config.drain_s, config.deflate), (3, 5, false));
    assert_eq!(config.log, "warn");
}

#[test]
fn every_top_level_key_has_its_variable() {
    let keys = Written::KEYS.iter().filter(|key| !TABLES.contains(key));
    let expected: Vec<String> = keys.map(|key| format!("FANFARE_{}", key.to_uppercase())).collect();
    assert_eq!(Written::VARIABLES, expected);
}

#[test]
fn mistakes_in_the_environment_and_in_flags_are_named_too() {
    let refused = |name, text, message: &str| {
        let error = load_all("", &[(name, text)], Flags::default()).expect_err("refused");
        assert_eq!(error, message);
    };
    refused("FANFARE_LOOPS", "many", "FANFARE_LOOPS: expected a whole number from 0 to 4294967295, found \"many\"");
    refused("FANFARE_DRAIN_S", "4000", "FANFARE_DRAIN_S: expected a whole number from 0 to 3600, found 4000");
    refused(
        "FANFARE_LISEN",
        "127.0.0.1:1",
        "FANFARE_LISEN: unknown variable; the nearest known one is `FANFARE_LISTEN`",
    );
    refused("FANFARE_APP_KEY", "k", "FANFARE_APP_KEY: defines an app, which needs `FANFARE_APP_ID` too");
    let flags = Flags { listen: Some("nowhere".into()), ..Flags::default() };
    assert_eq!(
        load_all("", &[], flags).expect_err("refused"),
        "--listen: expected an address and a port such as \"127.0.0.1:6001\", found \"nowhere\""
    );
}

#[test]
fn a_node_may_do_a_part_where_others_do_the_rest() {
    const REDIS: &str = "[redis]\nservers = [\"redis://127.0.0.1:7001\"]\n";
    for (written, role) in [("edge", Role::Edge), ("api", Role::Api), ("worker", Role::Worker), ("all", Role::All)] {
        assert_eq!(load(&format!("role = \"{written}\"\n{REDIS}")).expect("sound").role, role);
        let flags = || Flags { role: Some(written.to_owned()), ..Flags::default() };
        assert_eq!(load_all(REDIS, &[("FANFARE_ROLE", "edge")], flags()).expect("sound").role, role);
    }
    assert_eq!(load(REDIS).expect("sound").role, Role::All);
    refused(
        "role = \"edge\"",
        "fanfare.toml:1: a node with the role \"edge\" needs Redis servers ([redis] in fanfare.toml, or FANFARE_REDIS): \
         nobody else could do what it leaves out",
    );
    refused("role = \"cook\"", "fanfare.toml:1: expected \"edge\", \"api\", \"worker\" or \"all\", found \"cook\"");
}

#[test]
fn variables_of_others_with_our_prefix_are_left_alone() {
    let kubernetes = [("FANFARE_SERVICE_HOST", "10.0.0.1"), ("FANFARE_PORT_6001_TCP", "tcp://10.0.0.1:6001")];
    assert_eq!(load_all("", &kubernetes, Flags::default()), Ok(Config::default()));
}

#[test]
fn the_environment_can_define_an_app_without_a_file() {
    let app = [("FANFARE_APP_ID", "9"), ("FANFARE_APP_KEY", "k9"), ("FANFARE_APP_SECRET", "s9")];
    let config = load_all("", &app, Flags::default()).expect("sound");
    assert_eq!(config.apps, [AppSettings::new("9", Key::new("k9", "s9"))]);
    assert!(!config.dev);
    assert_eq!(
        load_all(APP, &app, Flags::default()).expect_err("refused"),
        "FANFARE_APP_ID: defines an app, but the file lists apps already; use one or the other"
    );
}

#[test]
fn the_development_credentials_stay_on_this_machine() {
    refused(
        "loops = 1\nlisten = \"0.0.0.0:6001\"",
        "fanfare.toml:2: 0.0.0.0:6001 is not a loopback address, and the development app's secret (key `fanfare-key`) is known to \
         everybody; configure an app of your own ([[apps]] in fanfare.toml, or FANFARE_APP_ID, FANFARE_APP_KEY and FANFARE_APP_SECRET)",
    );
    let copied =
        "listen = \"[::]:6001\"\n[[apps]]\nid = 5\nkeys = [{ key = \"fanfare-key\", secret = \"fanfare-secret\" }]\n";
    refused(
        copied,
        "fanfare.toml:1: [::]:6001 is not a loopback address, and the development app's secret (key `fanfare-key`) is known to \
         everybody; give that app a key and a secret of its own",
    );
    for loopback in ["localhost:1", "[::1]:1", "127.8.8.8:1", "[::ffff:127.0.0.1]:1"] {
        load(&format!("listen = \"{loopback}\"")).expect(loopback);
    }
    load(&format!("listen = \"0.0.0.0:6001\"\n{APP}")).expect("an app with a secret of its own may go out");
}

#[test]
fn secrets_are_not_printed() {
    let printed = format!("{:?}", load(APP.replace("\"s\"", "\"hush\"").as_str()).expect("sound"));
    assert!(!printed.contains("hush"), "{printed}");
}

#[test]
fn a_missing_file_that_was_named_is_an_error() {
    let source =
        Source { file: Some("/nowhere/fanfare.toml".into()), environment: BTreeMap::new(), flags: Flags::default() };
    let error = source.load().expect_err("refused").to_string();
    assert_eq!(error, "cannot read /nowhere/fanfare.toml: No such file or directory (os error 2)");
}

#[test]
fn redis_servers_are_of_one_kind() {
    let wrong = |lines: &str| load(&format!("[redis]\n{lines}\n")).expect_err("refused");
    assert!(wrong("servers = [\"redis://a:1\"]\ncluster = [\"redis://b:1\"]").contains("one of"));
    assert!(wrong("servers = [\"redis://a:1\"]\npassword = \"hush\"").contains("`sentinels`"));
    assert!(wrong("sentinels = [\"redis://a:1\"]").contains("`masters`"));
    assert!(wrong("serverz = [\"redis://a:1\"]").contains("`servers`"));
    assert!(wrong("prefix = \"a{b}\"\nservers = [\"redis://a:1\"]").contains("letters"));
}

#[test]
fn a_queue_is_refused_by_name_and_by_what_it_could_not_keep() {
    let queue = |lines: &str| format!("{APP}[[apps.queues]]\n{lines}\n");
    refused(&queue("jobs_max = 1"), "fanfare.toml:5: a queue needs a `name`");
    let name = "expected 1 to 64 lower-case letters, digits, `-` and `_` as a queue's name, found \"Mail\"";
    refused(&queue("name = \"Mail\""), &format!("fanfare.toml:6: {name}"));
    let twice = format!("{}{}", queue("name = \"mail\""), "[[apps.queues]]\nname = \"mail\"\n");
    refused(&twice, "fanfare.toml:8: this app has a queue \"mail\" already");
    let lease = "expected a whole number from 1 to 86400, found 0";
    let kept = "expected \"disk\" or \"memory\", found \"disc\"";
    refused(&queue("name = \"mail\"\ndurability = \"disc\""), &format!("fanfare.toml:7: {kept}"));
    let nowhere = "a queue on disk needs a `data_dir`; durability = \"memory\" does without, and loses its jobs when the server ends";
    let no_folder = format!("data_dir = \"\"\n{}", queue("name = \"mail\""));
    refused(&no_folder, &format!("fanfare.toml:7: {nowhere}"));
    assert_eq!(load("data_dir = \"\"").expect("sound").apps[0].queues[0].durability, Durability::Memory);
    refused(&queue("name = \"mail\"\nlease_s = 0"), &format!("fanfare.toml:7: {lease}"));
    refused(&format!("{APP}lease_s = 5\n"), "fanfare.toml:5: `lease_s` belongs in [[apps.queues]], not here");
}

/// A pipeline with these stages, from line 9 on, and sinks.
fn piped(stages: &str, sinks: &str) -> String {
    format!(
        "[[apps]]\nid = 1\nkeys = [{{ key = \"k\", secret = \"s\" }}]\nqueues = [{{ name = \"q\", durability = \"memory\" }}]\n\
         [[apps.pipelines]]\nname = \"p\"\nqueue = \"q\"\nstages = [\n{stages}\n]\nsinks = [\n{sinks}\n]\n"
    )
}

#[test]
fn what_is_wrong_with_a_pipeline_is_named_with_stage_key_and_line() {
    let null = "{ sink = \"null\" }";
    let says = |text: &str, message: &str| {
        let error = load(text).expect_err(text);
        assert_eq!(error, message);
    };
    says(
        &piped("{ stage = \"json\" },\n{ stage = \"trunkate\" },", null),
        "fanfare.toml:10: pipeline p, stage 2 (trunkate), key stage: there is no stage `trunkate`; did you mean `truncate`?",
    );
    says(
        &piped("{ stage = \"json\" },\n{ stage = \"truncate\", field = \"a\",\n chars = \"ten\" },", null),
        "fanfare.toml:11: pipeline p, stage 2 (truncate), key chars: takes a whole number from 1 to 1048576",
    );
    says(
        &piped("{ use = \"clean\" },", null),
        "fanfare.toml:9: pipeline p, stage 1 (clean), key use: there is no shared list `clean`",
    );
    let list = "[stages]\nclean = [\n { stage = \"json\" },\n { stage = \"drop\" },\n]\n";
    says(
        &(piped("{ use = \"clean\" },", null) + list),
        "fanfare.toml:17: pipeline p, stage 2 (drop) of the list clean, key fields: is required; it takes a list of fields",
    );
    says(
        &piped("{ stage = \"json\" },", "{ sink = \"nul\" }"),
        "fanfare.toml:12: pipeline p, sink 1 (nul), key sink: there is no sink `nul`; did you mean `null`?",
    );
    says(
        &piped("{ stage = \"json\" },", "{ sink = \"http\", urls = [\"ftp://a\"] }"),
        "fanfare.toml:12: pipeline p, sink 1 (http), key urls: `ftp://a` is no address like https://example.com/path",
    );
    says(
        &piped("", null).replace("queue = \"q\"", "queue = \"r\""),
        "fanfare.toml:7: pipeline p: this app has no queue \"r\"; it has q",
    );
    let twice = load(&piped("{ stage = \"json\", name = \"a\" },", "{ sink = \"null\", name = \"a\" }"));
    let twice = twice.expect_err("both are parts of the pipeline");
    assert!(twice.ends_with("pipeline p: a stage and a sink are both called `a`"), "{twice}");
    assert!(load(&piped("{ stage = \"json\" },", null)).is_ok());
}
