// Files sent by abide/client, to the real API on a real ledger.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createAbide } from 'abide/client';
import type { Abide, AbideOptions, FileSource, Import } from 'abide/client';
import { csvOf, serveImports } from '../api/v2/serving-imports.ts';
import type { ServedImports } from '../api/v2/serving-imports.ts';
import { eventually } from '../harness/eventually.ts';
import { subject } from '../harness/ledger.ts';
import { startTcpProxy } from '../harness/tcp-proxy.ts';
import type { TcpProxy } from '../harness/tcp-proxy.ts';
import { problemOf } from './problem-of.ts';
import { watchedFetch } from './watched-fetch.ts';

let api: ServedImports;
let proxy: TcpProxy;
let abide: Abide;
beforeAll(async () => {
  api = await serveImports({ approveAboveRows: 5_000 });
  proxy = await startTcpProxy({ host: '127.0.0.1', port: Number(new URL(api.url).port) });
  abide = client();
});
afterAll(async () => {
  await proxy[Symbol.asyncDispose]();
  await api[Symbol.asyncDispose]();
});

const client = (options: Partial<AbideOptions> = {}): Abide =>
  createAbide({ url: api.url, key: api.key, ...options } as AbideOptions);
const throughProxy = (options: Partial<AbideOptions> = {}): Abide =>
  client({ url: `http://127.0.0.1:${proxy.port}`, ...options });

let people = 1_000_000;
/** A file of people who were in no file before. */
const someCsv = (rows: number): string => csvOf(rows, (people += rows) - rows);
const EMAIL = { format: 'csv', scopes: ['email'] } as const;

const receiving = async (): Promise<number | null> =>
  (await api.t.pool.query("select from imports where state = 'receiving'")).rowCount;
const importIds = async (): Promise<Set<string>> =>
  new Set((await api.t.pool.query<{ id: string }>('select id from imports')).rows.map(({ id }) => id));
/** An import that an earlier test broke off may go away at any time: only new ones count. */
const importsSince = async (before: ReadonlySet<string>): Promise<number> =>
  (await importIds()).difference(before).size;

async function* piecesOf(text: string): AsyncGenerator<Uint8Array> {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length; at += 10_000)
    yield await Promise.resolve(bytes.subarray(at, at + 10_000));
}

describe('a file', () => {
  const SOURCES: readonly (readonly [string, (text: string) => FileSource])[] = [
    ['a Blob', (text) => new Blob([text])],
    ['a function that opens a Blob', (text) => () => Promise.resolve(new Blob([text]))],
    ['a function that opens pieces', (text) => () => piecesOf(text)],
    ['a stream', (text) => new Blob([text]).stream()],
    ['pieces', (text) => piecesOf(text)],
    [
      'pieces of text',
      async function* textOf(text) {
        for (const line of text.split(/(?<=\n)/)) yield await Promise.resolve(line);
      },
    ],
  ];

  test.each(SOURCES)('that is %s is recorded, and the same once more is the same import', async (_, open) => {
    const text = someCsv(3_000);
    const sent = await abide.imports.create(open(text), EMAIL);
    expect(sent).toMatchObject({
      outcome: 'received',
      format: 'csv',
      dry_run: false,
      scopes: ['email'],
      bytes: text.length,
      rows: { total: 3_000 },
    });
    expect(await abide.imports.waitUntilDone(sent.id)).toMatchObject({
      id: sent.id,
      state: 'done',
      counts: { recorded: 3_000, already: 0, invalid: 0 },
    });
    const again = await abide.imports.create(open(text), EMAIL);
    expect([again.id, again.outcome, again.state]).toEqual([sent.id, 'sent_before', 'done']);
  });

  test('is read as its parameters say', async () => {
    const row = JSON.stringify({ email: 'ndjson@example.com' });
    const { id, ...sent } = await abide.imports.create(new Blob([row]), {
      format: 'ndjson',
      dryRun: true,
      scopes: ['sms/offers', 'analytics'],
      reason: 'legal',
      effectiveAt: '2026-01-02T04:04:05+01:00',
    });
    expect(sent).toMatchObject({
      format: 'ndjson',
      dry_run: true,
      scopes: ['sms/offers', 'analytics'],
      reason: 'legal',
      effective_at: '2026-01-02T03:04:05.000Z',
    });
    expect((await abide.imports.waitUntilDone(id)).counts.recorded).toBe(1);
    const { state } = await api.t.ledger.lookupSubject(subject('ndjson@example.com'));
    expect(state.suppressed).toEqual({});
  });

  test('is sent while it is read: no more of it is held than a piece', async () => {
    const row = `${'x'.repeat(1_000)}@example.com\n`;
    let given = 0;
    let isKept: () => void = () => undefined;
    const kept = new Promise<void>((resolve) => (isKept = resolve));
    async function* source(): AsyncGenerator<string> {
      yield 'email\n';
      for (; given < 1_000; given += 1) yield row;
      await kept;
    }
    const sending = abide.imports.create(source(), EMAIL);
    // A piece is kept by the server before the source has come to its end.
    await eventually(async () => {
      const { rows } = await api.t.pool.query("select from import_chunks where n = 0 and import_id in (select id from imports where state = 'receiving')"); // prettier-ignore
      expect(rows).toHaveLength(1);
    });
    isKept();
    expect((await sending).rows.total).toBe(1_000);

    // If nobody takes anything, nothing is read.
    let read = 0;
    async function* counted(): AsyncGenerator<string> {
      for (;;) {
        read += 1;
        yield await Promise.resolve(row);
      }
    }
    const asked: unknown[] = [];
    const nobody = client({ fetch: (to) => (asked.push(to), new Promise(() => undefined)) });
    const ending = new AbortController();
    const waiting = nobody.imports.create(counted(), { ...EMAIL, signal: ending.signal });
    const caught = expect(waiting).rejects.toThrow('enough');
    await eventually(() => expect(asked).toHaveLength(1));
    ending.abort(new Error('enough'));
    await caught;
    expect(read).toBe(0);
  });

  test('that is refused is not read to its end', async () => {
    let ended = 0;
    async function* endless(): AsyncGenerator<string> {
      try {
        yield 'email,scope\n';
        for (;;) yield await Promise.resolve('ada@example.com,sms\n'.repeat(1_000));
      } finally {
        ended += 1;
      }
    }
    const problem = await problemOf(abide.imports.create(() => endless(), EMAIL));
    expect(problem).toMatchObject({ code: 'invalid-value', errors: [{ pointer: '/columns/scope' }] });
    await eventually(() => expect(ended).toBe(1));

    const malformed = await problemOf(abide.imports.create(new Blob(['email\n"ada@example.com\n']), EMAIL));
    expect(malformed).toMatchObject({ code: 'malformed-file', status: 400, retryable: false });
    expect(malformed.message).toMatch(/^Line \d: .*Nothing of the file was recorded\.$/);
  });

  // `pieces[Symbol.asyncIterator] is not a function` was all that was said, and of null even less.
  test.each([
    ['a text, which might be the name of a file', 'email\nada@example.com\n'],
    ['an array', ['email\n']],
    ['bytes', new Uint8Array([101])],
    ['nothing', null],
  ])('that is %s is not taken, and what is taken is said', async (_, wrong) => {
    const said =
      'Give a file as a Blob, a ReadableStream, an AsyncIterable, or a function that opens one; for a text: new Blob([text]).';
    for (const file of [wrong, () => wrong])
      await expect(abide.imports.create(file as unknown as FileSource, EMAIL)).rejects.toThrow(
        new TypeError(said),
      );
  });

  test('whose source fails is none, and what it failed with is thrown', async () => {
    const why = new Error('the disk is gone');
    async function* broken(): AsyncGenerator<string> {
      yield await Promise.resolve(csvOf(10_000));
      throw why;
    }
    const before = await importIds();
    await expect(abide.imports.create(() => broken(), EMAIL)).rejects.toBe(why);
    await expect(abide.imports.create(() => Promise.reject(why), EMAIL)).rejects.toBe(why);
    await eventually(async () => expect(await importsSince(before)).toBe(0));
  });

  test('that is aborted is none: its source is closed, and the reason is thrown', async () => {
    const ending = new AbortController();
    let isClosed = false;
    async function* source(): AsyncGenerator<string> {
      try {
        yield await Promise.resolve(csvOf(100));
        for (;;) {
          await new Promise((resolve) => setTimeout(resolve, 5));
          yield 'ada@example.com\n';
        }
      } finally {
        isClosed = true;
      }
    }
    const before = await importIds();
    const sending = abide.imports.create(source(), { ...EMAIL, signal: ending.signal });
    const caught = expect(sending).rejects.toThrow('enough');
    await eventually(async () => expect(await receiving()).toBe(1));
    ending.abort(new Error('enough'));
    await caught;
    await eventually(() => expect(isClosed).toBe(true));
    await eventually(async () => expect(await importsSince(before)).toBe(0));
  });
});

describe('a line that breaks', () => {
  test('in the middle of a file that can be opened again: it is, and is one import', async () => {
    const text = someCsv(4_000);
    const before = await importIds();
    let opened = 0;
    proxy.setFault('cut_request');
    const sending = throughProxy().imports.create(() => ((opened += 1), piecesOf(text)), EMAIL);
    await eventually(() => expect(opened).toBeGreaterThan(1));
    proxy.setFault('none');
    expect(await sending).toMatchObject({ outcome: 'received', rows: { total: 4_000 } });
    await eventually(async () => expect(await importsSince(before)).toBe(1));
  });

  test('before the answer came: the same file finds what was made of it', async () => {
    const { fetch, passed } = watchedFetch();
    const before = await importIds();
    proxy.setFault('lose_answer');
    const sending = throughProxy({ fetch }).imports.create(new Blob([someCsv(10)]), EMAIL);
    await eventually(() => expect(passed.length).toBeGreaterThan(1));
    proxy.setFault('none');
    expect((await sending).outcome).toBe('sent_before');
    expect(await importsSince(before)).toBe(1);
  });

  test('in the middle of pieces that are there once: that is the end', async () => {
    const { fetch, passed } = watchedFetch();
    proxy.setFault('cut_request');
    const sending = throughProxy({ fetch }).imports.create(piecesOf(someCsv(4_000)), EMAIL);
    const problem = await problemOf(sending);
    proxy.setFault('none');
    expect(problem).toMatchObject({ code: 'no-answer', retryable: true });
    expect(passed).toHaveLength(1);
  });

  test('and nothing moves any more: it ends in time, however long the file took until then', async () => {
    async function* source(): AsyncGenerator<string> {
      yield 'email\n';
      for (let n = 0; n < 8; n += 1) {
        // Here it is the source that takes longer than a try may, and that is no fault of the server's.
        await new Promise((resolve) => setTimeout(resolve, n === 4 ? 2_300 : 100));
        if (n === 7) proxy.setFault('hang');
        yield 'ada@example.com\n';
      }
    }
    const began = performance.now();
    const problem = await problemOf(
      throughProxy({ timeoutMs: 2_200, tryTimeoutMs: 2_000 }).imports.create(source(), EMAIL),
    );
    proxy.setFault('none');
    expect(problem).toMatchObject({
      code: 'no-answer',
      message: 'No answer to POST /v2/imports within 2000 ms.',
    });
    expect(performance.now() - began).toBeGreaterThan(4_500);
  });

  test('a Blob, of which nobody sees how far it is, has a second for every 64 KiB', async () => {
    proxy.setFault('hang');
    const began = performance.now();
    const blob = new Blob(['x'.repeat(32 * 1024)]);
    const problem = await problemOf(
      throughProxy({ timeoutMs: 100, tryTimeoutMs: 100 }).imports.create(blob, EMAIL),
    );
    proxy.setFault('none');
    expect(problem.message).toBe('No answer to POST /v2/imports within 600 ms.');
    expect(performance.now() - began).toBeGreaterThan(590);
  });

  test('while an import is approved: it is asked again', async () => {
    const { id } = await abide.imports.create(new Blob([someCsv(5_001)]), EMAIL);
    const { fetch, passed } = watchedFetch();
    const { token } = await api.makeKey({ client: 'operations', scopes: ['imports:approve'] });
    proxy.setFault('lose_answer');
    const approving = throughProxy({ fetch, key: token }).imports.approve(id);
    await eventually(() => expect(passed.length).toBeGreaterThan(1));
    proxy.setFault('none');
    expect(await approving).toMatchObject({ id, approval: { client: 'operations' } });
  });
});

test('an access token that is refused is asked for again, and the file with it where it can be', async () => {
  const byToken = (): Abide =>
    createAbide({ url: api.url, token: ({ refused }) => (refused === undefined ? 'over' : api.key) });
  const text = someCsv(10);
  expect((await byToken().imports.create(() => piecesOf(text), EMAIL)).outcome).toBe('received');
  expect(await problemOf(byToken().imports.create(piecesOf(text), EMAIL))).toMatchObject({
    code: 'unauthenticated',
    status: 401,
  });
});

describe('an import', () => {
  test('that is large waits for another key, and whoever waits for it is told so at once', async () => {
    const { id, state } = await abide.imports.create(new Blob([someCsv(5_001)]), EMAIL);
    expect(state).toBe('awaiting_approval');
    expect(await problemOf(abide.imports.waitUntilDone(id))).toMatchObject({
      code: 'awaiting-approval',
      message: '5001 rows wait for the approval of another key.',
      retryable: true,
    });
    expect((await problemOf(abide.imports.approve(id))).code).toBe('missing-scope');
    const { token } = await api.makeKey({ client: 'operations', scopes: ['imports:approve'] });
    await client({ key: token }).imports.approve(id);

    const seen: Import[] = [];
    const done = await abide.imports.waitUntilDone(id, { onProgress: (now) => seen.push(now) });
    expect(done.counts.recorded).toBe(5_001);
    expect(seen.at(-1)).toEqual(done);
    expect(seen.map(({ rows }) => rows.done)).toEqual(
      seen.map(({ rows }) => rows.done).toSorted((a, b) => a - b),
    );
  });

  test('that is cancelled is not waited for', async () => {
    const { id } = await abide.imports.create(new Blob([someCsv(5_001)]), EMAIL);
    expect(await abide.imports.cancel(id)).toMatchObject({ id, state: 'cancelled' });
    expect(await problemOf(abide.imports.waitUntilDone(id))).toMatchObject({ code: 'import-cancelled' });
  });

  test('that fails says why', async () => {
    const { token } = await api.makeKey({ client: 'thrifty', limits: { optOutsPerDay: 3 } });
    const thrifty = client({ key: token });
    const { id } = await thrifty.imports.create(new Blob([someCsv(4)]), EMAIL);
    expect(await problemOf(thrifty.imports.waitUntilDone(id))).toMatchObject({
      code: 'import-failed',
      message: 'The import failed after 0 of 4 rows: budget-exhausted.',
      retryable: false,
    });
    expect(await thrifty.imports.get(id)).toMatchObject({ state: 'failed', failure: 'budget-exhausted' });
  });

  test('that nobody carries is waited for as long as was said', async () => {
    await using its = await serveImports({ isCarried: false });
    const waiting = createAbide({ url: its.url, key: its.key });
    const { id } = await waiting.imports.create(new Blob([csvOf(10)]), EMAIL);
    const began = performance.now();
    expect(await problemOf(waiting.imports.waitUntilDone(id, { timeoutMs: 1_500 }))).toMatchObject({
      code: 'not-done',
      message: '0 of 10 rows are recorded in time.',
      retryable: true,
    });
    expect(performance.now() - began).toBeGreaterThan(1_450);
    const ending = new AbortController();
    const looked = waiting.imports.waitUntilDone(id, {
      signal: ending.signal,
      onProgress: () => ending.abort(new Error('enough')),
    });
    await expect(looked).rejects.toThrow('enough');
  });

  test('names the rows that were not taken, page by page', async () => {
    const rows = ['email', 'ada@example.com', ...Array.from({ length: 25 }, (_, n) => `nobody ${n}`)];
    const { id } = await abide.imports.create(new Blob([rows.join('\n')]), EMAIL);
    await abide.imports.waitUntilDone(id);
    const { fetch, passed } = watchedFetch();
    const found: unknown[] = [];
    for await (const error of client({ fetch }).imports.errors(id, { limit: 10 })) {
      found.push(error);
      expect(passed).toHaveLength(Math.ceil(found.length / 10));
    }
    expect(found).toHaveLength(25);
    expect(found[0]).toEqual({ row: 2, line: 3, column: 'email', code: 'invalid' });
  });

  test('is listed with the others, newest first', async () => {
    const { token } = await api.makeKey({ client: 'lister' });
    const lister = client({ key: token });
    const ids: string[] = [];
    for (let n = 0; n < 5; n += 1)
      ids.unshift((await lister.imports.create(new Blob([someCsv(1)]), EMAIL)).id);
    for (const id of ids) await lister.imports.waitUntilDone(id);
    const listed: string[] = [];
    for await (const { id } of lister.imports.list({ state: 'done', limit: 2 })) listed.push(id);
    expect(listed).toEqual(ids);
    expect(await lister.imports.list({ state: 'failed' }).next()).toEqual({ done: true, value: undefined });
  });
});
