//! `fanfare check` and `fanfare apps`: the configuration, told back without its secrets.

use crate::config::{AppSettings, Config, Source};
use std::fmt::Write;

/// Says that all is well, and what that means; a mistake is the error.
pub fn check(source: &Source) -> anyhow::Result<()> {
    let config = source.load()?;
    println!("{}", summary(&config, source));
    Ok(())
}

/// Lists the apps.
pub fn apps(source: &Source) -> anyhow::Result<()> {
    print!("{}", table(&source.load()?.apps));
    Ok(())
}

fn summary(config: &Config, source: &Source) -> String {
    let file = source.file().map_or("no file, defaults".to_owned(), |file| file.display().to_string());
    let apps = match (config.dev, config.apps.len()) {
        (true, _) => "the development app".to_owned(),
        (false, 1) => "1 app".to_owned(),
        (false, n) => format!("{n} apps"),
    };
    let tls = if config.tls.is_some() { " (TLS)" } else { "" };
    let push_stream = config.push_stream.as_ref().map(|settings| format!(", push-stream {}", settings.listen));
    let push_stream = push_stream.unwrap_or_default();
    format!("{file}: OK\n  listen {}{tls}, admin {}{push_stream}, {apps}", config.listen, config.admin_listen)
}

fn table(apps: &[AppSettings]) -> String {
    columns(["ID", "NAME", "ENABLED", "CLIENT EVENTS", "CONNECTIONS MAX", "KEYS"], apps.iter().map(row))
}

/// Columns as wide as their widest cell.
pub(super) fn columns<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            write!(line, "{cell:<width$}  ", width = width(column)).expect("a String takes all");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(app: &AppSettings) -> [String; 6] {
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let keys: Vec<&str> = app.keys.iter().map(|pair| &*pair.key).collect();
    [
        app.id.to_string(),
        app.name.to_string(),
        yes(app.enabled),
        yes(app.client_events),
        match app.limits.connections_max {
            0 => "unlimited".to_owned(),
            max => max.to_string(),
        },
        keys.join(" "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_config;

    #[test]
    fn apps_are_listed_without_their_secrets() {
        let config = test_config(
            "[[apps]]\nid = 1\nname = \"shop\"\nkeys = [{ key = \"a\", secret = \"hush\" }, { key = \"b\", secret = \"hush\" }]\n\
             [[apps]]\nid = 22\nenabled = false\nkeys = [{ key = \"c\", secret = \"hush\" }]\nlimits = { connections_max = 5 }",
        );
        let expected = "\
ID  NAME  ENABLED  CLIENT EVENTS  CONNECTIONS MAX  KEYS
1   shop  yes      no             unlimited        a b
22  22    no       no             5                c
";
        assert_eq!(table(&config.apps), expected);
    }
}
