//! `fanfare publish`: one signed request to the HTTP API.

use super::access::AccessArgs;
use super::request::Request;
use clap::Args;

pub const EXAMPLES: &str = "\
Examples:
  fanfare publish news headline '{\"text\":\"hello\"}'
  fanfare publish private-orders paid 4711 --config fanfare.toml --app-id 1001
  fanfare publish news headline hello --url http://push.example --app-id 1001 --key KEY --secret SECRET";

#[derive(Debug, Args)]
pub struct PublishArgs {
    /// The channel
    channel: String,
    /// The event's name
    event: String,
    /// The event's data: any text, most often JSON
    data: String,
    #[command(flatten)]
    access: AccessArgs,
}

/// Publishes, and prints the server's answer.
pub async fn run(args: PublishArgs) -> anyhow::Result<()> {
    let body = serde_json::json!({ "name": args.event, "channel": args.channel, "data": args.data });
    let access = args.access.resolve()?;
    let answer = Request::post("/events", body.to_string()).send(&access).await?;
    println!("{answer}");
    Ok(())
}
