//! `musaic pull`: the one command that uses the network.

use std::process::ExitCode;

/// Arguments of `musaic pull`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hub id, owner/name
    id: String,
    /// Branch, tag or commit
    #[arg(long, value_name = "NAME", default_value = "main")]
    revision: String,
    /// Another hub than the default (also by HF_ENDPOINT)
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Say nothing on the way
    #[arg(short, long)]
    quiet: bool,
}

#[cfg(not(feature = "hub"))]
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let _ = (&args.revision, &args.endpoint, args.quiet);
    Err(musaic_core::Error::MissingFeature { feature: "hub", what: format!("downloading `{}`", args.id) }.into())
}

#[cfg(feature = "hub")]
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    use crate::failure::BadInput;
    use crate::{hub, pipeline::models};

    let Some((owner, name)) = models::hub_id(&args.id) else {
        return Err(
            BadInput::new(format!("id `{}`: expected owner/name, such as facebook/musicgen-small", args.id)).into()
        );
    };
    let mut say = |text: &str| {
        if !args.quiet {
            super::say(text);
        }
    };
    let cancel = super::stop::on_interrupt();
    let folder = hub::Pull { owner, name, revision: &args.revision, endpoint: args.endpoint.as_deref() }.run(
        &models::cache_folder(),
        &cancel,
        &mut say,
    )?;
    super::print(&format!("{}\n", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}
