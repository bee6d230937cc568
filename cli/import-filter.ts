// Filters a file of contacts on its way into another system: rows of suppressed people are left out, or marked. What is written was
// checked; what cannot be checked is not written, and the exit code says so.
import { addAbortSignal, pipeline } from 'node:stream';
import type { Writable } from 'node:stream';
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { CsvError, parse } from 'csv-parse';
import { createLineCount } from '../api/import/csv-lines.ts';
import { untilAborted } from '../connectors/contract/until-aborted.ts';
import { CHANNELS } from '../suppression/scope.ts';
import type { Channel } from '../suppression/scope.ts';
import { createAsk, withApi } from './api-client.ts';
import type { ApiOptions } from './api-client.ts';
import { USUAL_CHANNEL } from './identify.ts';
import { untilInterrupted } from './interruption.ts';
import { EXIT } from './output.ts';

const BATCH_ROWS = 1_000;
/** Below the API's limit for a body. */
const BATCH_BYTES = 900 * 1024;
/** Longer than any address; anything longer is answered for here. */
const ITEM_BYTES_MAX = 2_048;
/** With a quote that never closes, the rest of the file would be one field. */
const ROW_BYTES_MAX = 1024 * 1024;
const NOTES_MAX = 10;

export type Counts = { rows: number; kept: number; dropped: number; invalid: number };

export type Filter = {
  readonly input: AsyncIterable<Buffer>;
  readonly output: Writable;
  /** Kind of identifier → the column that has it. */
  readonly columns: Readonly<Record<string, string>>;
  /** For each item, in order: undefined if it may be sent, else the reason why not. */
  readonly check: (subjects: readonly (readonly object[])[]) => Promise<readonly (string | undefined)[]>;
  /** The column to add instead of leaving rows out. */
  readonly mark?: string | undefined;
  /** Why a row could not be checked, by its line and never with a value. */
  readonly note: (text: string) => void;
  readonly signal: AbortSignal;
};

// Bytes are read as Latin-1, one character each: what separates fields is ASCII in every encoding that CSV comes in, and a row
// leaves as the bytes that it came as. Only what is sent to the API must be text: a decoder that puts the same character for
// whatever it cannot read would ask about somebody else, whom nobody has suppressed.
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function toText(bytes: string): string | undefined {
  try {
    return utf8.decode(Buffer.from(bytes, 'latin1'));
  } catch {
    return undefined;
  }
}

const BYTE_ORDER_MARK = Buffer.from('\ufeff');

/** Gives how the file begins and how it ends its lines, and all of it without the mark at its beginning. */
async function openFile(input: AsyncIterable<Buffer>) {
  const chunks = input[Symbol.asyncIterator]();
  let start = Buffer.alloc(0);
  while (start.length < BYTE_ORDER_MARK.length || !start.includes('\n')) {
    const next = await chunks.next();
    if (next.done === true) break;
    start = Buffer.concat([start, next.value]);
    if (start.length > ROW_BYTES_MAX) break;
  }
  const hasMark = start.subarray(0, BYTE_ORDER_MARK.length).equals(BYTE_ORDER_MARK);
  async function* rest(): AsyncGenerator<Buffer> {
    try {
      yield hasMark ? start.subarray(BYTE_ORDER_MARK.length) : start;
      for (let next = await chunks.next(); next.done !== true; next = await chunks.next()) yield next.value;
    } finally {
      await chunks.return?.();
    }
  }
  const end = start.indexOf('\n');
  const newline = start[end - 1] === 0x0d ? '\r\n' : '\n';
  return {
    mark: hasMark ? BYTE_ORDER_MARK : Buffer.alloc(0),
    newline: end < 0 && start.includes('\r') ? '\r' : newline,
    rest,
  };
}

type Parsed = { readonly fields: readonly string[]; readonly raw: string; readonly line: number };

/** Where each kind of identifier stands in a row. The header's own words are not repeated: it may be a row of addresses. */
function placesOf(
  header: readonly string[],
  columns: Readonly<Record<string, string>>,
  mark: string | undefined,
) {
  const names = header.map(toText);
  const places = Object.entries(columns).map(([kind, column]) => {
    const at = names.indexOf(column);
    if (at < 0) {
      const why = header.join().includes('\0')
        ? ': is the file in UTF-16?'
        : header.length === 1
          ? ': are they separated by commas?'
          : '.';
      throw new Error(`The header has no column ${column} (it has ${names.length})${why}`);
    }
    if (names.lastIndexOf(column) !== at) throw new Error(`The header has the column ${column} twice.`);
    return [kind, at] as const;
  });
  if (mark !== undefined && names.includes(mark)) throw new Error(`The header has a column ${mark} already.`);
  return places;
}

const quoted = (field: string): string =>
  /[",\r\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field;

/** A spreadsheet opens the file next: whatever the API answered, only a word of ours gets into it. */
const asCell = (reason: string): string => (/^[a-z_]{1,32}$/.test(reason) ? reason : 'opted_out');

/** If the reader has gone, the rest was not written, and that is no success here. */
const unwritten = (cause: NodeJS.ErrnoException): Error =>
  new Error(cause.code === 'EPIPE' ? 'Nothing reads the output any more.' : 'The output cannot be written.', {
    cause,
  });

/** Reads everything, writes what may be written, and gives the counts even if it fails. */
export async function filterImport(filter: Filter, counts: Counts): Promise<void> {
  const { columns, mark, note, output, signal } = filter;
  const file = await untilAborted(openFile(filter.input), signal);
  // The parser reads ahead, and after a failure its rows come no more, so the loop below does not know how far it was.
  let lastLine = 0;
  const linesOf = createLineCount();
  const parser = addAbortSignal(
    signal,
    parse({
      encoding: 'latin1',
      raw: true,
      on_record: (row: unknown, { lines }) => {
        const { record, raw } = row as { record: string[]; raw: string };
        const { first, last } = linesOf(record, lines);
        lastLine = last;
        // The parser's types know no other rows than lists of fields, whatever `raw` and this make of them.
        return { fields: record, raw, line: first } satisfies Parsed as unknown as string[];
      },
      // Spreadsheets on a Mac end lines so: what is no row here but is one for the next reader would not be checked.
      record_delimiter: ['\r\n', '\n', '\r'],
      relax_column_count: true,
      skip_empty_lines: true,
      max_record_size: ROW_BYTES_MAX,
    }),
  );
  // A failure is thrown by the loop below.
  pipeline(file.rest, parser, () => undefined);

  // Waits until it is written: that the last rows were not would be heard after the end, which had been a success by then.
  async function write(rows: readonly string[]): Promise<void> {
    if (rows.length === 0) return;
    const chunk = Buffer.from(rows.map((row) => row + file.newline).join(''), 'latin1');
    const written = new Promise<void>((resolve, reject) => {
      output.write(chunk, (error) => {
        if (error) reject(unwritten(error));
        else resolve();
      });
    });
    await untilAborted(written, signal);
  }

  let batch: { raw: string; line: number; subjects: readonly object[] }[] = [];
  let bytes = 0;
  async function flush(): Promise<void> {
    if (batch.length === 0) return;
    const reasons = await untilAborted(filter.check(batch.map(({ subjects }) => subjects)), signal);
    if (reasons.length !== batch.length) throw new Error('The API did not answer for every row.');
    const rows: string[] = [];
    batch.forEach(({ raw, line }, n) => {
      const reason = reasons[n];
      if (reason === 'invalid_item') {
        counts.invalid += 1;
        note(`line ${line}: not an address or number that Abide can read`);
        return;
      }
      if (reason === undefined) counts.kept += 1;
      else counts.dropped += 1;
      if (mark !== undefined) rows.push(`${raw},${reason === undefined ? '' : asCell(reason)}`);
      else if (reason === undefined) rows.push(raw);
    });
    [batch, bytes] = [[], 0];
    await write(rows);
  }

  let header: readonly string[] | undefined;
  let places: readonly (readonly [string, number])[] = [];
  try {
    for await (const { fields, raw, line } of parser as AsyncIterable<Parsed>) {
      // If a line ends with two characters, csv-parse leaves one of them on either side.
      const row = raw.replace(/^[\r\n]+|[\r\n]+$/g, '');
      if (header === undefined) {
        header = fields;
        places = placesOf(header, columns, mark);
        const added = mark === undefined ? '' : `,${Buffer.from(quoted(mark)).toString('latin1')}`;
        await write([file.mark.toString('latin1') + row + added]);
        continue;
      }
      counts.rows += 1;
      const cells = places.map(([kind, at]) => [kind, toText(fields[at] ?? '')?.trim()] as const);
      const subjects = cells.filter(([, text]) => text !== '').map(([kind, text]) => ({ [kind]: text }));
      const size = Buffer.byteLength(JSON.stringify(subjects)) + 100;
      const why =
        fields.length !== header.length
          ? `${fields.length} fields instead of ${header.length}`
          : cells.some(([, text]) => text === undefined)
            ? 'an address or number that is not UTF-8'
            : subjects.length === 0
              ? 'nothing to check: no address, no number'
              : size > ITEM_BYTES_MAX
                ? 'longer than any address'
                : undefined;
      if (why !== undefined) {
        counts.invalid += 1;
        note(`line ${line}: ${why}`);
        continue;
      }
      if (batch.length === BATCH_ROWS || bytes + size > BATCH_BYTES) await flush();
      batch.push({ raw: row, line, subjects });
      bytes += size;
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (!(error instanceof CsvError)) throw error;
    // The parser's own words quote fields.
    throw new Error(`Line ${lastLine + 1} is not CSV (${error.code}): what follows cannot be read.`, {
      cause: error,
    });
  }
  if (header === undefined) throw new Error('There is no header: the first line must name the columns.');
  await flush();
}

type Options = ApiOptions & {
  emailColumn?: string;
  phoneColumn?: string;
  channel?: Channel;
  topic?: string;
  mark?: string;
};

export function addImportFilter(program: Command): void {
  withApi(program.command('import-filter'))
    .description(
      'Copy a CSV file from standard input to standard output without the rows of suppressed people',
    )
    .option('--email-column <name>', 'the column of the email address')
    .option('--phone-column <name>', 'the column of the phone number, with + and country code')
    .addOption(
      new Option(
        '--channel <channel>',
        'how they would be reached (default: sms if only a number is named, else email)',
      ).choices(CHANNELS),
    )
    .option('--topic <topic>', 'a topic of the channel')
    .option('--mark <column>', 'write suppressed rows too, with the reason in this new column')
    .addHelpText(
      'after',
      `
Exit code 0: every row was checked. 3: some could not be, and were left out.
1: it was broken off.`,
    )
    .action(async (options: Options) => {
      const columns = {
        ...(options.emailColumn === undefined ? {} : { email: options.emailColumn }),
        ...(options.phoneColumn === undefined ? {} : { phone: options.phoneColumn }),
      };
      if (Object.keys(columns).length === 0) {
        throw new InvalidArgumentError('Name a column to check by: --email-column, --phone-column or both.');
      }
      const { channel = USUAL_CHANNEL[options.emailColumn === undefined ? 'phone' : 'email'], topic } =
        options;
      const ask = createAsk(options);
      const scope = topic === undefined ? channel : `${channel}/${topic}`;
      const interruption = untilInterrupted();
      const { signal } = interruption;
      // Whoever wrote is told as well, and says how far it came.
      process.stdout.removeAllListeners('error').on('error', () => undefined);
      const counts: Counts = { rows: 0, kept: 0, dropped: 0, invalid: 0 };
      const say = (line: string): boolean => process.stderr.write(`${line}\n`);
      let notes = 0;
      try {
        await filterImport(
          {
            input: process.stdin,
            output: process.stdout,
            columns,
            mark: options.mark,
            note: (text) => {
              if ((notes += 1) <= NOTES_MAX) say(text);
            },
            signal,
            check: async (rows) => {
              const items = rows.map((identifiers, n) => ({ ref: String(n), identifiers, scope }));
              const { items: answers } = await ask((abide) => abide.checks.ask(items, { signal }));
              return answers.map(({ allowed, reason }) => (allowed ? undefined : (reason ?? 'opted_out')));
            },
          },
          counts,
        );
        if (counts.invalid > 0) process.exitCode = EXIT.no;
      } finally {
        process.stdin.destroy();
        if (notes > NOTES_MAX) say(`… and ${notes - NOTES_MAX} more`);
        say(
          `${counts.rows} rows, ${counts.kept} kept, ${counts.dropped} ${options.mark === undefined ? 'dropped' : 'marked'}, ${counts.invalid} invalid`,
        );
        if (topic !== undefined && counts.rows > 0 && counts.invalid === counts.rows)
          say(`is the topic ${topic} declared in abide.yaml?`);
        interruption.pass();
      }
    });
}
