//! Errors, by their reader.
//!
//! | type | is dealt with by |
//! |---|---|
//! | [`RequestError`](request::RequestError) | a client: it becomes a response; its status comes from one exhaustive match |
//! | [`StartError`](start::StartError) | whoever starts a program: it ends it; its exit code comes from one exhaustive match |
//!
//! An error that one folder both makes and handles stays in that folder. A variant is one true sentence about one step:
//! the step, its subject, the cause, and the remedy, if one exists.

pub(crate) mod request;
pub mod start;

/// A path or another text as one word for a shell, for a command in an error message.
pub fn shell_word(text: impl ToString) -> String {
    let text = text.to_string();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+=,".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn shell_words_are_one_word() {
        let words = [("/srv/a-b.sh", "/srv/a-b.sh"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''")];
        crate::cases::check(words.map(|(text, word)| (text, word.to_string())), |text| super::shell_word(text));
    }
}
