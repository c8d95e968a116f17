//! Ctrl-C: the first asks the loops to stop at the next step, the second ends the program at once.

use std::sync::OnceLock;

use musaic_core::role::Cancel;

/// The process-wide stop request, wired to Ctrl-C and SIGTERM at the first call.
pub fn on_interrupt() -> Cancel {
    static CANCEL: OnceLock<Cancel> = OnceLock::new();
    CANCEL
        .get_or_init(|| {
            let cancel = Cancel::default();
            let asked = cancel.clone();
            let installed = ctrlc::set_handler(move || {
                if asked.is_cancelled() {
                    std::process::exit(130);
                }
                asked.cancel();
            });
            if let Err(error) = installed {
                tracing::warn!("Ctrl-C cannot be caught: {error}");
            }
            cancel
        })
        .clone()
}
