// Files meant to exhaust, to crash or to slip through: rows without end, what is no text, columns by the million, uploads that
// never end. Each is refused or becomes errors of rows, quickly and in few words; what was refused is not kept, and the next
// request is answered.
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { csvOf, serveImports } from '../api/v2/serving-imports.ts';
import type { ServedImports } from '../api/v2/serving-imports.ts';
import { eventually } from '../harness/eventually.ts';
import { parseAnswers, problemOf } from '../harness/http.ts';

const MEBIBYTE = 1024 * 1024;
const NDJSON = 'application/x-ndjson';
/** What a refused upload may still send before its connection ends (api/app.ts), and what is on its way by then. */
const SENT_MAX = 24 * MEBIBYTE;

let api: ServedImports;
beforeAll(async () => {
  api = await serveImports();
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

async function expectNothingKept(): Promise<void> {
  await eventually(async () => {
    for (const table of ['import_chunks', 'import_seen']) {
      const { rowCount } = await api.t.pool.query(`select from ${table}`);
      expect(rowCount).toBe(0);
    }
    expect((await api.t.pool.query("select from imports where state = 'receiving'")).rowCount).toBe(0);
  });
}

const utf16 = Buffer.from(`\ufeffemail\nada@example.com\n`, 'utf16le');
const zip = Buffer.concat([Buffer.from('PK\x03\x04\x14\x00\x08\x08', 'latin1'), Buffer.alloc(4_096, 0xa7)]);

const REFUSED: Record<string, [file: string | Buffer, type: string, problem: unknown[]]> = {
  'a quote that is never closed': [`email\n"ada@example.com\n${'bob@example.com\n'.repeat(200_000)}`, 'text/csv', [400, 'malformed-file']],
  'a short one': ['email\n"ada@example.com\n', 'text/csv', [400, 'malformed-file']],
  'something behind a quote': ['email\n"ada"@example.com\n', 'text/csv', [400, 'malformed-file']],
  'a quote within a field': ['email\nada"@example.com\n', 'text/csv', [400, 'malformed-file']],
  'a row of megabytes': [`email\n${'a'.repeat(2 * MEBIBYTE)}\n`, 'text/csv', [400, 'malformed-file']],
  'a header of a million columns': [`${'email,'.repeat(1_000_000)}\n`, 'text/csv', [400, 'malformed-file']],
  'an archive': [zip, 'text/csv', [400, 'malformed-file']],
  'a compressed file': [gzipSync('email\nada@example.com\n'), 'text/csv', [400, 'malformed-file']],
  'UTF-16': [utf16, 'text/csv', [400, 'malformed-file']],
  'a header that is no UTF-8': [Buffer.from('\xe9mail\n', 'latin1'), 'text/csv', [400, 'malformed-file']],
  'nothing but zeroes': [Buffer.alloc(50_000), 'text/csv', [400, 'malformed-file']],
  nothing: ['', 'text/csv', [400, 'malformed-file']],
  'nothing but line ends': ['\r\n'.repeat(100_000), 'text/csv', [400, 'malformed-file']],
  'a line of JSON of megabytes': [`{"email":"${'a'.repeat(2 * MEBIBYTE)}"}`, NDJSON, [400, 'malformed-file']],
  'lines of JSON without line ends': ['{"email":"ada@example.com"}'.repeat(100_000), NDJSON, [400, 'malformed-file']],
  'a member of the prototype': ['{"__proto__":{"email":"ada@example.com"}}', NDJSON, [422, 'invalid-value', ['/columns/__proto__']]],
  'a member that is an address': ['{"ada@example.com":"email"}', NDJSON, [422, 'invalid-value', ['/columns/(not shown)']]],
}; // prettier-ignore

describe('refused as a whole, and nothing is kept:', () => {
  test.each(Object.keys(REFUSED))('%s', async (name) => {
    const [file, type, problem] = REFUSED[name]!;
    const answer = await api.post(file, 'scopes=email', { type });
    expect(problemOf(answer)).toEqual(problem);
    expect(answer.text.length).toBeLessThan(8_192);
    expect(answer.text).not.toContain('example.com');
    await expectNothingKept();
    expect((await api.t.pool.query('select from decisions')).rowCount).toBe(0);
  });

  test('as many unknown columns as fit, of which a few are named', async () => {
    const answer = await api.post(`${'x,'.repeat(30_000)}x\n`);
    expect([answer.status, answer.json.errors.length]).toEqual([422, 20]);
    await expectNothingKept();
  });

  test.each(['gzip', 'br', 'deflate'])('one that says it is compressed (%s)', async (encoding) => {
    const { status } = await api.send('POST', '/v2/imports?scopes=email', {
      key: api.key,
      body: gzipSync('email\n'),
      headers: { 'content-type': 'text/csv', 'content-encoding': encoding },
    });
    expect(status).toBe(415);
  });
});

const ROWS: Record<string, [file: string | Buffer, type: string, errors: unknown[]]> = {
  'zeroes within an address': ['email\na\0da@example.com\n', 'text/csv', [[1, 'email', 'invalid']]],
  'a row of thousands of fields': [`email\n${','.repeat(30_000)}\n`, 'text/csv', [[1, null, 'wrong_number_of_fields']]],
  'bytes that are no UTF-8': [Buffer.from('email\n\xff\xfe@example.com\n', 'latin1'), 'text/csv', [[1, 'email', 'not_utf8']]],
  'overlong UTF-8': [Buffer.from('email\n\xc0\xaeda@example.com\n', 'latin1'), 'text/csv', [[1, 'email', 'not_utf8']]],
  'formulas': ['email,reason\n"=HYPERLINK(""http://x"")",\n@SUM(1),\n', 'text/csv', [[1, 'email', 'invalid'], [2, 'email', 'invalid']]],
  'a field as long as may be': [`email\n${'a'.repeat(60_000)}@example.com\n`, 'text/csv', [[1, 'email', 'invalid']]],
  'thousands of scopes': [`email,scopes\nada@example.com,${'email '.repeat(9_000)}\n`, 'text/csv', [[1, 'scopes', 'invalid']]],
  'JSON of thousands of levels': [`{"email":${'['.repeat(20_000)}${']'.repeat(20_000)}}`, NDJSON, [[1, null, 'not_json']]],
  'a list of thousands of scopes': [JSON.stringify({ email: 'ada@example.com', scopes: Array(5_000).fill('email') }), NDJSON, [[1, 'scopes', 'invalid']]],
  'half of a character': ['{"person_id":"\\ud800"}', NDJSON, [[1, null, 'not_json']]],
  'an object where a text should be': ['{"email":{"toString":"ada@example.com"}}', NDJSON, [[1, 'email', 'invalid']]],
}; // prettier-ignore

describe('errors of rows, and the file goes on:', () => {
  test.each(Object.keys(ROWS))('%s', async (name) => {
    const [file, type, expected] = ROWS[name]!;
    const { id, state } = await api.import(file, 'scopes=email', type);
    expect(state).toBe('done');
    const { errors } = await api.errors(id);
    expect(errors.map(({ row, column, code }) => [row, column, code])).toEqual(expected);
  });
});

describe('a file without end', () => {
  /** Sends the head and then the same megabyte again and again, until the connection ends or there is an answer. */
  async function pour(head: string, chunk: string): Promise<{ sent: number; received: string }> {
    const socket = connect(Number(new URL(api.url).port), '127.0.0.1');
    let received = '';
    let ended = false;
    let sent = 0;
    socket.setEncoding('utf8').on('data', (text: string) => (received += text));
    socket.on('error', () => undefined).once('close', () => (ended = true));
    socket.write(head);
    while (!ended && received === '' && sent < 1024 * MEBIBYTE) {
      await new Promise((resolve) => socket.write(chunk, resolve));
      sent += chunk.length;
    }
    await eventually(() => expect(received !== '' || ended).toBe(true));
    socket.destroy();
    return { sent, received };
  }
  const head = (more: string, type = 'text/csv'): string =>
    `POST /v2/imports?scopes=email HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${api.key}\r\nContent-Type: ${type}\r\n${more}\r\n`;

  test('of one line is answered long before its gigabyte', async () => {
    const { sent, received } = await pour(
      `${head(`Content-Length: ${1024 * MEBIBYTE}\r\n`)}email\n`,
      'a'.repeat(MEBIBYTE),
    );
    expect(sent).toBeLessThan(SENT_MAX);
    expect(problemOf(parseAnswers(received)[0]!)).toEqual([400, 'malformed-file']);
    await expectNothingKept();
  });

  test('in a quoted field neither', async () => {
    const { sent, received } = await pour(
      `${head(`Content-Length: ${1024 * MEBIBYTE}\r\n`)}email\n"`,
      'a@b.example\n'.repeat(80_000),
    );
    expect(sent).toBeLessThan(SENT_MAX);
    expect(problemOf(parseAnswers(received)[0]!)).toEqual([400, 'malformed-file']);
    await expectNothingKept();
  });

  test('that says how large it is beforehand is not even begun', async () => {
    const { sent, received } = await pour(
      head(`Content-Length: ${1024 * MEBIBYTE + 1}\r\n`),
      'a'.repeat(MEBIBYTE),
    );
    expect(sent).toBeLessThan(SENT_MAX);
    expect(problemOf(parseAnswers(received)[0]!)).toEqual([413, 'too-large']);
  });

  test('that breaks off leaves nothing behind', async () => {
    const socket = connect(Number(new URL(api.url).port), '127.0.0.1').on('error', () => undefined);
    socket.write(`${head('Content-Length: 10000000\r\n')}${csvOf(50_000)}`);
    await eventually(async () =>
      expect((await api.t.pool.query('select from import_chunks')).rowCount).toBeGreaterThan(0),
    );
    socket.destroy();
    await expectNothingKept();
    expect(
      (await api.send('GET', '/v2/imports?limit=100', { key: api.key })).json.imports,
    ).not.toContainEqual(expect.objectContaining({ rows: { total: 50_000 } }));
  });
});

// One key with eight files that stalled kept out the files of everybody.
test('so many at once are refused, of a client and of all, and then taken again', async () => {
  const port = Number(new URL(api.url).port);
  const keys = await Promise.all(['other', 'third'].map((client) => api.makeKey({ client })));
  const [other, third] = keys.map(({ token }) => token) as [string, string];
  const open: Socket[] = [];
  const stall = async (key: string): Promise<void> => {
    for (let n = 0; n < 4; n += 1) {
      const socket = connect(port, '127.0.0.1').on('error', () => undefined);
      socket.write(
        `POST /v2/imports?scopes=email HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${key}\r\nContent-Type: text/csv\r\nContent-Length: 100\r\n\r\nemail\n`,
      );
      open.push(socket);
    }
    await eventually(async () => {
      const { rows } = await api.t.pool.query<{ n: number }>(
        "select count(*) as n from imports where state = 'receiving'",
      );
      expect(rows[0]!.n).toBe(open.length);
    });
  };
  const refused = (of: string) => ({
    status: 503,
    headers: { 'retry-after': '10' },
    json: { code: 'overloaded', detail: `${of} are being received here already.` },
  });

  await stall(api.key);
  expect(await api.post('email\n')).toMatchObject(refused('4 files of this client'));
  expect((await api.post(csvOf(1), undefined, { key: other })).status).toBe(202);
  await stall(other);
  expect(await api.post('email\n', undefined, { key: third })).toMatchObject(refused('8 files'));

  for (const socket of open) socket.destroy();
  await expectNothingKept();
  expect((await api.post('email\n')).status).toBe(202);
});

test('files that nobody approves fill no disk: so many of a client wait, and no more', async () => {
  await using its = await serveImports({ approveAboveRows: 0 });
  for (let n = 0; n < 20; n += 1) expect((await its.post(csvOf(1, n))).status).toBe(202);
  expect(problemOf(await its.post(csvOf(1, 20)))).toEqual([429, 'too-many-requests']);
  const other = await its.makeKey({ client: 'other' });
  expect((await its.post(csvOf(1, 21), 'scopes=email', { key: other.token })).status).toBe(202);
});
