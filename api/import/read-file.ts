// Reads a file of opt-outs as rows of cells, piece by piece: whatever the file is, no more of it than one record is held in memory.
// What cannot be a file of rows is refused as a whole; what is wrong with one row is an error of that row, and the others are read
// on.
import { pipeline } from 'node:stream';
import { CsvError, parse } from 'csv-parse';
import type { ImportFormat, RowError } from '../../ledger/contract/imports.ts';
import { AbideError } from '../../suppression/errors.ts';
import { SUBJECT_KINDS } from '../../suppression/subject-kind.ts';
import { parseJson, pointerOf } from '../guard/read-body.ts';
import { createLineCount } from './csv-lines.ts';

export const COLUMNS = [...SUBJECT_KINDS, 'scopes', 'effective_at', 'reason'] as const;
export type Column = (typeof COLUMNS)[number];

/** Many times what a row of ours has: with a quote that never ends, the rest of the file would be one field. */
const RECORD_BYTES_MAX = 64 * 1024;
const UNKNOWN_NAMED_MAX = 20;
const BYTE_ORDER_MARK = Buffer.from('\ufeff');

/** Counted from 1, without the header; `line` is where the row begins in the file. */
export type FileRow = { readonly row: number; readonly line: number } & (
  | { readonly cells: Readonly<Partial<Record<Column, unknown>>> }
  | { readonly code: RowError['code']; readonly column?: Column }
);

/** Throws AbideError: malformed-file, invalid-value (columns). */
export const readFile = (
  format: ImportFormat,
  pieces: AsyncIterable<Buffer>,
  needs: { readonly scopes: boolean },
): AsyncGenerator<FileRow> =>
  format === 'csv' ? readCsv(withoutMark(pieces), needs) : readNdjson(withoutMark(pieces));

const isColumn = (name: string): name is Column => (COLUMNS as readonly string[]).includes(name);

const malformed = (line: number, why: string): AbideError =>
  new AbideError('malformed-file', `Line ${line}: ${why}. Nothing of the file was recorded.`);

async function* withoutMark(pieces: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let start: Buffer | undefined = Buffer.alloc(0);
  for await (const piece of pieces) {
    if (start === undefined) {
      yield piece;
      continue;
    }
    start = Buffer.concat([start, piece]);
    if (start.length < BYTE_ORDER_MARK.length) continue;
    yield start.indexOf(BYTE_ORDER_MARK) === 0 ? start.subarray(BYTE_ORDER_MARK.length) : start;
    start = undefined;
  }
  if (start !== undefined) yield start;
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function decode(bytes: Buffer): string | undefined {
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}

// Bytes are read as Latin-1, one character each: what separates fields is ASCII, and what is not UTF-8 shows field by field. A
// decoder that reads the file as text would put the same character for whatever it cannot read, and two people whom it reads so
// would be one.
const BEYOND_ASCII = /[\x80-\xff]/;
const toText = (bytes: string): string | undefined =>
  BEYOND_ASCII.test(bytes) ? decode(Buffer.from(bytes, 'latin1')) : bytes;

const WHY: Readonly<Record<string, string>> = {
  CSV_QUOTE_NOT_CLOSED: 'a quote is opened and never closed',
  CSV_MAX_RECORD_SIZE: `a row is longer than ${RECORD_BYTES_MAX / 1024} KiB, perhaps because a quote is never closed`,
  CSV_INVALID_CLOSING_QUOTE: 'something follows a closing quote',
  INVALID_OPENING_QUOTE: 'a quote appears inside a field that does not begin with one',
};

type Parsed = { readonly fields: readonly string[]; readonly line: number };

async function* readCsv(
  pieces: AsyncIterable<Buffer>,
  needs: { readonly scopes: boolean },
): AsyncGenerator<FileRow> {
  // The parser reads ahead, and after a failure its rows come no more, so the loop below does not know how far it was.
  let lastLine = 0;
  const linesOf = createLineCount();
  const parser = parse({
    encoding: 'latin1',
    on_record: (fields: string[], { lines }) => {
      const { first, last } = linesOf(fields, lines);
      lastLine = last;
      // The parser's types know no other rows than lists of fields, whatever this makes of them.
      return { fields, line: first } satisfies Parsed as unknown as string[];
    },
    record_delimiter: ['\r\n', '\n', '\r'],
    relax_column_count: true,
    skip_empty_lines: true,
    max_record_size: RECORD_BYTES_MAX,
  });
  // A failure is thrown by the loop below.
  pipeline(pieces, parser, () => undefined);
  let columns: readonly Column[] | undefined;
  let row = 0;
  try {
    for await (const { fields, line } of parser as AsyncIterable<Parsed>) {
      if (columns === undefined) {
        columns = readHeader(fields, needs);
        continue;
      }
      row += 1;
      yield readRecord(fields, columns, row, line);
    }
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    // The parser's own words quote fields.
    throw malformed(lastLine + 1, WHY[error.code] ?? 'it is not CSV');
  }
  if (columns === undefined) throw malformed(1, 'there is no header that names the columns');
}

/** A typing error must neither widen nor narrow what is recorded: an unknown column must not be left out. */
function readHeader(record: readonly string[], needs: { readonly scopes: boolean }): Column[] {
  const names = record.map((name) => toText(name)?.trim() ?? '\0');
  // eslint-disable-next-line no-control-regex -- what is no text: an archive, or UTF-16
  if (names.some((name) => /[\x00-\x08\x0e-\x1f]/.test(name)))
    throw malformed(1, 'the header is not text in UTF-8');
  const faults = names.flatMap((name, n) => {
    if (!isColumn(name)) return [{ pointer: pointerOf(['columns', name]), detail: NOT_KNOWN }];
    if (names.indexOf(name) !== n)
      return [{ pointer: pointerOf(['columns', name]), detail: 'appears twice' }];
    return [];
  });
  if (!SUBJECT_KINDS.some((kind) => names.includes(kind)))
    faults.push({ pointer: '/columns', detail: `has none of ${SUBJECT_KINDS.join(', ')}` });
  if (needs.scopes && !names.includes('scopes'))
    faults.push({ pointer: '/columns/scopes', detail: 'is missing, and no scopes are given for all rows' });
  if (faults.length > 0)
    throw new AbideError('invalid-value', undefined, { errors: faults.slice(0, UNKNOWN_NAMED_MAX) });
  return names as Column[];
}

const NOT_KNOWN = `is not known here: the columns are ${COLUMNS.join(', ')}, separated by commas`;

function readRecord(
  record: readonly string[],
  columns: readonly Column[],
  row: number,
  line: number,
): FileRow {
  if (record.length !== columns.length) return { row, line, code: 'wrong_number_of_fields' };
  const cells: Partial<Record<Column, string>> = {};
  for (const [n, column] of columns.entries()) {
    const text = toText(record[n]!);
    if (text === undefined) return { row, line, code: 'not_utf8', column };
    cells[column] = text;
  }
  return { row, line, cells };
}

async function* readNdjson(pieces: AsyncIterable<Buffer>): AsyncGenerator<FileRow> {
  let rest: Buffer = Buffer.alloc(0);
  let row = 0;
  let line = 0;
  for await (const piece of pieces) {
    const bytes = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
    let at = 0;
    for (let end = bytes.indexOf(0x0a); end >= 0; end = bytes.indexOf(0x0a, at)) {
      line += 1;
      const one = readLine(bytes.subarray(at, end), row + 1, line);
      at = end + 1;
      if (one === undefined) continue;
      row += 1;
      yield one;
    }
    rest = bytes.subarray(at);
    if (rest.length > RECORD_BYTES_MAX) throw tooLong(line + 1);
  }
  const last = readLine(rest, row + 1, line + 1);
  if (last !== undefined) yield last;
}

const tooLong = (line: number): AbideError =>
  malformed(line, `it is longer than ${RECORD_BYTES_MAX / 1024} KiB`);

/** Undefined if the line is empty. */
function readLine(bytes: Buffer, row: number, line: number): FileRow | undefined {
  if (bytes.length > RECORD_BYTES_MAX) throw tooLong(line);
  const text = decode(bytes);
  if (text === undefined) return { row, line, code: 'not_utf8' };
  if (text.trim() === '') return undefined;
  let value: unknown;
  try {
    value = parseJson(text);
  } catch {
    return { row, line, code: 'not_json' };
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return { row, line, code: 'not_json' };
  const unknown = Object.keys(value).filter((name) => !isColumn(name));
  if (unknown.length > 0) {
    const errors = unknown
      .slice(0, UNKNOWN_NAMED_MAX)
      .map((name) => ({ pointer: pointerOf(['columns', name]), detail: `${NOT_KNOWN} (line ${line})` }));
    throw new AbideError('invalid-value', undefined, { errors });
  }
  return { row, line, cells: value };
}
