//! Conversations as one text (ChatML, as SmolLM2's template has it).

use std::path::Path;

use musaic_core::{Error, Result, files::read_config};
use serde_json::Value;

/// The published template up to what it says where nobody gives a system message, and from there on.
const BEFORE: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
                      {{ '<|im_start|>system\n";
const BEHIND: &str = "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + \
                      '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// How a conversation is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    system: String,
}

impl ChatTemplate {
    /// Reads the `chat_template` of a `tokenizer_config.json`. Templates are programs; only the one of this layout is known, with
    /// any system message.
    ///
    /// # Errors
    /// The file cannot be read, or its template is another.
    pub fn open(path: &Path) -> Result<Self> {
        let config = read_config(path)?;
        let template = config.get("chat_template").and_then(Value::as_str).unwrap_or_default();
        Self::parse(template).ok_or_else(|| {
            let found = if template.is_empty() { "none" } else { "another" };
            Error::format(path, "the `chat_template` of SmolLM2 (ChatML)", found)
        })
    }

    fn parse(template: &str) -> Option<Self> {
        // Within its quotes a line break may be written out.
        let template = template.replace("\\n", "\n");
        let system = template.strip_prefix(BEFORE)?.strip_suffix(BEHIND)?;
        let system = system.replace("\\'", "\u{0}");
        (!system.contains('\'') && !system.contains('\\')).then(|| Self { system: system.replace('\u{0}', "'") })
    }

    /// The text of a conversation, with the usual system message where it begins with none; `prompt` opens the answer.
    pub fn render(&self, messages: &[Message], prompt: bool) -> String {
        let turn = |role: &str, content: &str| format!("<|im_start|>{role}\n{content}<|im_end|>\n");
        let mut text = String::new();
        if messages.first().is_some_and(|first| first.role != "system") {
            text += &turn("system", &self.system);
        }
        text.extend(messages.iter().map(|message| turn(&message.role, &message.content)));
        if prompt {
            text += "<|im_start|>assistant\n";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_known_with_any_system_message() {
        let written = format!("{BEFORE}It\\'s music{BEHIND}");
        let template = ChatTemplate::parse(&written).unwrap();
        assert_eq!(ChatTemplate::parse(&written.replace('\n', "\\n")), Some(template.clone()));
        let message = |role: &str| Message { role: role.into(), content: "Hi".into() };
        let hi = "<|im_start|>user\nHi<|im_end|>\n";
        let text = template.render(&[message("user")], true);
        assert_eq!(text, format!("<|im_start|>system\nIt's music<|im_end|>\n{hi}<|im_start|>assistant\n"));
        let text = template.render(&[message("system"), message("user")], false);
        assert_eq!(text, format!("<|im_start|>system\nHi<|im_end|>\n{hi}"));
        for other in [String::new(), written.replace("im_end", "end"), format!("{BEFORE}a' + b + '{BEHIND}")] {
            assert_eq!(ChatTemplate::parse(&other), None);
        }
    }
}
