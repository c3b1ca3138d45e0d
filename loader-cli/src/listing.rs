//! The tensors of a checkpoint as people read them: a row each, written as it is made, since there
//! may be half a million.

use std::borrow::Cow;
use std::io::{self, Write};

use weightloader::{Checkpoint, TensorInfo};

/// The most characters of a name or a shape that are shown: headers may have far longer ones.
const LONGEST: usize = 100;

const TITLES: [&str; 5] = ["tensor", "dtype", "shape", "offset", "bytes"];

/// Writes all tensors, under the name of their file where there are several.
pub(crate) fn write(checkpoint: &Checkpoint, lines: &mut dyn Write) -> io::Result<()> {
    let mut widths = TITLES.map(str::len);
    for tensor in checkpoint.tensors() {
        for (width, cell) in widths.iter_mut().zip(cells(checkpoint, tensor)) {
            *width = cell.chars().count().max(*width);
        }
    }
    write_row(lines, widths, TITLES)?;
    let sharded = checkpoint.files().len() > 1;
    let mut last_file = None;
    for tensor in checkpoint.tensors() {
        if sharded && last_file.replace(tensor.file()) != Some(tensor.file()) {
            let file = &checkpoint.files()[tensor.file()];
            writeln!(lines, "{}", file.path().display())?;
        }
        write_row(lines, widths, cells(checkpoint, tensor))?;
    }
    Ok(())
}

fn cells<'c>(checkpoint: &Checkpoint, tensor: &'c TensorInfo) -> [Cow<'c, str>; 5] {
    let base = checkpoint.files()[tensor.file()].base();
    [
        readable(tensor.name()),
        tensor.dtype().name().into(),
        readable(&format!("{:?}", tensor.shape()))
            .into_owned()
            .into(),
        (base + tensor.range().start).to_string().into(),
        tensor.bytes().to_string().into(),
    ]
}

/// Words to the left, numbers to the right.
fn write_row(
    lines: &mut dyn Write,
    [name, dtype, shape, offset, bytes]: [usize; 5],
    cells: [impl AsRef<str>; 5],
) -> io::Result<()> {
    let [a, b, c, d, e] = cells.each_ref().map(AsRef::as_ref);
    writeln!(
        lines,
        "{a:name$}  {b:dtype$}  {c:shape$}  {d:>offset$}  {e:>bytes$}"
    )
}

/// The text with its middle left out where it is long, since names differ at their ends, and without
/// characters that would move the cursor.
fn readable(text: &str) -> Cow<'_, str> {
    let half = LONGEST / 2;
    // Whatever comes after so many characters is not looked at.
    let clipped = match text.char_indices().nth(LONGEST) {
        None => Cow::Borrowed(text),
        Some(_) => {
            let place = |found: Option<(usize, char)>| found.map_or(0, |(place, _)| place);
            let head = &text[..place(text.char_indices().nth(half))];
            let tail = &text[place(text.char_indices().nth_back(half - 2))..];
            format!("{head}…{tail}").into()
        }
    };
    if !clipped.contains(char::is_control) {
        return clipped;
    }
    let escaped = clipped.chars().map(|character| {
        if character.is_control() {
            character.escape_default().to_string()
        } else {
            character.to_string()
        }
    });
    escaped.collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(readable("model.0.weight"), "model.0.weight");
        let long = format!("begin{}end", "ü".repeat(1 << 20));
        let shown = readable(&long);
        assert_eq!(shown.chars().count(), LONGEST);
        assert!(shown.starts_with("beginü") && shown.ends_with("üend"));
        assert!(shown.contains("ü…ü"));
        let longest = "x".repeat(LONGEST);
        assert_eq!(readable(&longest), longest);
    }

    #[test]
    fn names_stay_on_their_line() {
        assert_eq!(readable("a\n\u{1b}[2Jb"), "a\\n\\u{1b}[2Jb");
    }
}
