/**
 * Gives the lines of its file on which a row begins and ends, from what csv-parse says of each row, in their order. csv-parse
 * counts the end of a line within quotes twice if it is CRLF, and what it gives is the row's last line.
 */
export function createLineCount(): (
  fields: readonly string[],
  lines: number,
) => { readonly first: number; readonly last: number } {
  let countedTwice = 0;
  return (fields, lines) => {
    let within = 0;
    for (const field of fields) {
      if (!field.includes('\n') && !field.includes('\r')) continue;
      const ends = field.match(/\r\n|\r|\n/g)!;
      within += ends.length;
      countedTwice += ends.filter((end) => end === '\r\n').length;
    }
    const last = lines - countedTwice;
    return { first: last - within, last };
  };
}
