import { Readable, Writable } from 'node:stream';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { filterImport } from '../../cli/import-filter.ts';
import type { Counts, Filter } from '../../cli/import-filter.ts';
import { eventually } from '../harness/eventually.ts';

/** Somebody whose address begins with `out` is suppressed; an address that begins with `bad` cannot be read. */
const judge = (subjects: readonly object[]): string | undefined => {
  const said = JSON.stringify(subjects);
  return said.includes('"bad') ? 'invalid_item' : said.includes('"out') ? 'opted_out' : undefined;
};

async function filtered(
  csv: string | Buffer | readonly Buffer[],
  { columns = { email: 'email' }, ...rest }: Partial<Filter> = {},
) {
  const written: Buffer[] = [];
  const output = new Writable({
    write(chunk: Buffer, _encoding, done) {
      written.push(chunk);
      done();
    },
  });
  const counts: Counts = { rows: 0, kept: 0, dropped: 0, invalid: 0 };
  const notes: string[] = [];
  const asked: number[] = [];
  const chunks = Array.isArray(csv) ? (csv as readonly Buffer[]) : [Buffer.from(csv as string)];
  const failed = await filterImport(
    {
      input: Readable.from(chunks),
      output,
      columns,
      check: (rows) => {
        asked.push(rows.length);
        return Promise.resolve(rows.map(judge));
      },
      note: (text) => notes.push(text),
      signal: new AbortController().signal,
      ...rest,
    },
    counts,
  ).then(
    () => undefined,
    (error: unknown) => (error as Error).message,
  );
  return {
    output: Buffer.concat(written).toString('latin1'),
    counts: Object.values(counts),
    notes,
    asked,
    failed,
  };
}

test('rows of suppressed people are left out, and all others are as they came', async () => {
  const csv =
    'id,"email",remark\r\n1,ada@x.com,"two\r\nlines, ""quoted"""\r\n2,out@x.com,\r\n\r\n3," grace@x.com ",\r\n';
  expect(await filtered(csv)).toEqual({
    output: 'id,"email",remark\r\n1,ada@x.com,"two\r\nlines, ""quoted"""\r\n3," grace@x.com ",\r\n',
    counts: [3, 2, 1, 0],
    notes: [],
    asked: [3],
    failed: undefined,
  });
});

// All of it was taken for the header and written: exit code 0, with every suppressed person in it.
test('a line that ends with a carriage return alone is a line', async () => {
  for (const size of [1, 7, 1_000]) {
    const csv = Buffer.from('email,n\rada@x.com,"1\r2"\rout@x.com,2\rgrace@x.com,3\r');
    const pieces = Array.from({ length: Math.ceil(csv.length / size) }, (_, n) =>
      csv.subarray(n * size, (n + 1) * size),
    );
    expect(await filtered(pieces)).toMatchObject({
      output: 'email,n\rada@x.com,"1\r2"\rgrace@x.com,3\r',
      counts: [3, 2, 1, 0],
    });
  }
  const { output, counts } = await filtered('email,n\nada@x.com,1\rout@x.com\ngrace@x.com,3\r\n');
  expect(output).toBe('email,n\nada@x.com,1\ngrace@x.com,3\n');
  expect(counts).toEqual([3, 2, 0, 1]);
});

test('or they are marked with the reason, in a column of their own', async () => {
  expect((await filtered('email,n\nada@x.com,1\nout@x.com,2\nbad,3\n', { mark: 'why, if' })).output).toBe(
    'email,n,"why, if"\nada@x.com,1,\nout@x.com,2,opted_out\n',
  );
});

test('what cannot be checked is not written, and is named by its line without its value', async () => {
  const csv = `email,phone,n\nada@x.com,,1\n,,2\nbad@x.com,,3\ngrace@x.com,4\n${'x'.repeat(3_000)},,5\nada@x.com,"a\nb",6\n`;
  const { output, counts, notes, failed } = await filtered(csv, {
    columns: { email: 'email', phone: 'phone' },
  });
  expect(output).toBe('email,phone,n\nada@x.com,,1\nada@x.com,"a\nb",6\n');
  expect(counts).toEqual([6, 2, 0, 4]);
  expect(notes.sort()).toEqual([
    'line 3: nothing to check: no address, no number',
    'line 4: not an address or number that Abide can read',
    'line 5: 2 fields instead of 3',
    'line 6: longer than any address',
  ]);
  expect(failed).toBeUndefined();
});

// csv-parse counts such a line end twice: after multi-line notes from a spreadsheet, every line number was wrong.
test('a line is the one on which its row begins, whatever ends the lines within quotes', async () => {
  const csv = 'email,"no\r\nte"\r\nada@x.com,"a\r\nb\nc"\r\n\r\nbad@x.com,"d\r\ne"\r\nada@x.com\r\n';
  expect((await filtered(csv)).notes.sort()).toEqual([
    'line 7: not an address or number that Abide can read',
    'line 9: 1 fields instead of 2',
  ]);
  expect((await filtered(`${csv}"secret"y\r\n`)).failed).toMatch(/^Line 10 is not CSV/);
});

test('one suppressed identifier suppresses the row', async () => {
  const columns = { email: 'mail', phone: 'mobile' };
  expect((await filtered('mail,mobile\nada@x.com,out\nada@x.com,+44\n', { columns })).output).toBe(
    'mail,mobile\nada@x.com,+44\n',
  );
});

test.each([
  [
    'a quote that ends within a field',
    'email\nada@x.com\n"secret"y\n',
    'Line 3 is not CSV (CSV_INVALID_CLOSING_QUOTE): what follows cannot be read.',
  ],
  [
    'a quote that begins within a field',
    'email\nsecret"y\n',
    'Line 2 is not CSV (INVALID_OPENING_QUOTE): what follows cannot be read.',
  ],
  [
    'a quote that never ends',
    'email\nada@x.com\n"secret\n',
    'Line 3 is not CSV (CSV_QUOTE_NOT_CLOSED): what follows cannot be read.',
  ],
  [
    'a quote that would take all memory',
    `email\n"${'secret\n'.repeat(200_000)}`,
    /^Line \d+ is not CSV \(CSV_MAX_RECORD_SIZE\)/,
  ],
  [
    'a header that is separated otherwise',
    'email;name\nada@x.com;Ada\n',
    'The header has no column email (it has 1): are they separated by commas?',
  ],
  [
    'a file in UTF-16',
    'e\0m\0a\0i\0l\0\n\0',
    'The header has no column email (it has 1): is the file in UTF-16?',
  ],
  ['no header', '', 'There is no header: the first line must name the columns.'],
  ['another header', 'secret@x.com,n\n', 'The header has no column email (it has 2).'],
  ['a column that stands twice', 'email,email\n', 'The header has the column email twice.'],
])('%s breaks it off, and nothing unchecked is written', async (_what, csv, message) => {
  const { output, failed } = await filtered(csv);
  expect(failed).toEqual(typeof message === 'string' ? message : expect.stringMatching(message));
  expect(output).not.toContain('secret');
});

test('a column that is to be added must not be there', async () => {
  expect((await filtered('email,why\n', { mark: 'why' })).failed).toBe(
    'The header has a column why already.',
  );
});

test('an API that answers for fewer rows is not believed', async () => {
  const { output, failed } = await filtered('email\nada@x.com\n', { check: () => Promise.resolve([]) });
  expect([output, failed]).toEqual(['email\n', 'The API did not answer for every row.']);
});

test('any file comes out as it went in, however it arrives, less the rows that are suppressed', async () => {
  const field = fc.oneof(
    fc.string({ unit: fc.constantFrom('a', 'é', ' ', '\xff', '1') }),
    fc
      .string({ unit: fc.constantFrom('b', '"', ',', '\n', '\r\n', '\ufeff') })
      .map((text) => `"${text.replaceAll('"', '""')}"`),
  );
  const row = fc.tuple(fc.constantFrom('ada', 'out', '"grace"', '"out"'), field, field);
  await fc.assert(
    fc.asyncProperty(
      fc.array(row, { maxLength: 20 }),
      fc.constantFrom('\n', '\r\n'),
      fc.boolean(),
      fc.boolean(),
      fc.array(fc.nat(30), { maxLength: 20 }),
      async (rows, newline, hasMark, isEnded, cuts) => {
        const toFile = (lines: readonly (readonly string[])[]): string =>
          (hasMark ? '\ufeff' : '') + ['email,"a",b', ...lines.map((line) => line.join(','))].join(newline);
        let rest = Buffer.from(toFile(rows) + (isEnded || rows.length === 0 ? newline : ''));
        const chunks: Buffer[] = [];
        for (const cut of cuts) {
          chunks.push(rest.subarray(0, cut));
          rest = rest.subarray(cut);
        }
        const { output, failed } = await filtered([...chunks, rest]);
        expect(failed).toBeUndefined();
        const kept = rows.filter(([email]) => !email.includes('out'));
        expect(Buffer.from(output, 'latin1').toString()).toBe(toFile(kept) + newline);
      },
    ),
    { numRuns: 300 },
  );
});

test('bytes that are no UTF-8 leave as they came', async () => {
  const csv = Buffer.from('email,name\nada@x.com,J\xfcrgen\n', 'latin1');
  expect((await filtered([csv])).output).toBe('email,name\nada@x.com,J\xfcrgen\n');
});

// A file in Latin-1: josé@x.com was suppressed, jos\ufffd@x.com was asked about, and the row was written.
test('an address that is no UTF-8 is not asked about as another one, and its row is not written', async () => {
  const csv = 'email,phone,n\njos\xe9@x.com,,1\n,+4\xff4,2\njos\xc3\xa9@x.com,,3\n';
  const asked: unknown[] = [];
  const check: Filter['check'] = (rows) => {
    asked.push(...rows);
    return Promise.resolve(rows.map(() => undefined));
  };
  const columns = { email: 'email', phone: 'phone' };
  expect(await filtered([Buffer.from(csv, 'latin1')], { columns, check, mark: 'why' })).toMatchObject({
    output: 'email,phone,n,why\njos\xc3\xa9@x.com,,3,\n',
    counts: [3, 1, 0, 2],
    notes: [
      'line 2: an address or number that is not UTF-8',
      'line 3: an address or number that is not UTF-8',
    ],
  });
  expect(asked).toEqual([[{ email: 'josé@x.com' }]]);
});

test('it asks a thousand at a time, and never for more than a body may have', async () => {
  expect((await filtered(`email\n${'ada@x.com\n'.repeat(2_500)}`)).asked).toEqual([1_000, 1_000, 500]);
  const long = `${'ä'.repeat(900)}\n`;
  const { asked } = await filtered(`email\n${long.repeat(1_000)}`);
  expect(asked.length).toBeGreaterThan(1);
  expect(asked.reduce((sum, n) => sum + n)).toBe(1_000);
});

// Found by reading: that the last rows could not be written was heard when the end had been called a success.
test.each([
  ['EPIPE', 'Nothing reads the output any more.'],
  ['ENOSPC', 'The output cannot be written.'],
])('an output that fails with the last rows (%s) is no success', async (code, said) => {
  let writes = 0;
  const output = new Writable({
    write: (_chunk, _encoding, done) => {
      writes += 1;
      setImmediate(done, writes === 2 ? Object.assign(new Error(code), { code }) : undefined);
    },
  }).on('error', () => undefined);
  expect((await filtered('email\nada@x.com\n', { output })).failed).toBe(said);
  expect(writes).toBe(2);
});

test('while nobody takes what is written, nothing more is read', async () => {
  let read = 0;
  const endless = async function* (): AsyncGenerator<Buffer> {
    yield Buffer.from('email\n');
    for (;;) {
      read += 1;
      yield await Promise.resolve(Buffer.from('ada@x.com\n'.repeat(1_000)));
    }
  };
  const output = new Writable({ highWaterMark: 1_000, write: () => undefined });
  const ending = new AbortController();
  const running = filtered('', { input: endless(), output, signal: ending.signal });
  let before = -1;
  await eventually(async () => {
    const now = read;
    await new Promise((resolve) => setTimeout(resolve, 50));
    const isStill = before === now && now === read && now > 0;
    before = now;
    if (!isStill) throw new Error('still reading');
  });
  expect(read).toBeLessThan(50);
  ending.abort(new Error('enough'));
  expect((await running).failed).toBe('enough');
});
