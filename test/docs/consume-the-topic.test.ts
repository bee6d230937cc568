import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { expect, jest, test } from '@jest/globals';
import { readTopics } from '../../debezium/files.ts';
import { up } from '../../ledger/migrations/0001-ledger.ts';
import { REJECTIONS } from '../../suppression/acknowledgement.ts';
import { open, seal } from '../../suppression/seal.ts';
import { after, blocksOf, readPage, tableOf } from './markdown.ts';

/** A program without types. */
const EXAMPLE: string = '../../docs/examples/topic-consumer.mjs';
const page = readPage('docs/consume-the-topic.md');
const vectorOf = (): Record<'key' | 'subject_id' | 'kind' | 'sealed' | 'address', string> =>
  JSON.parse(blocksOf(after(page, 'test vector'), 'json')[0]!);

test("the page's test vector opens by our code, and by the example that has none of it", async () => {
  const vector = vectorOf();
  const sealed = Buffer.from(vector.sealed, 'base64url');
  const secret = Buffer.from(vector.key, 'base64url');
  const { unseal } = (await import(EXAMPLE)) as {
    unseal: (sealed: Buffer, secret: Buffer, subjectId: string, kind: string) => string;
  };
  const key = { id: sealed.readUInt32BE(1), secret };
  expect(open(sealed, key, [vector.subject_id, vector.kind])).toBe(vector.address);
  expect(unseal(sealed, secret, vector.subject_id, vector.kind)).toBe(vector.address);
  expect(() => unseal(sealed, secret, vector.subject_id, 'phone')).toThrow();
});

type Report = { observed?: { incarnation: string | null }; acknowledgements: object[] };

/** The example with a file and an API of its own; `name` makes it a module of its own. */
async function startExample(name: string) {
  const vector = vectorOf();
  const secret = Buffer.from(vector.key, 'base64url');
  await using stack = new AsyncDisposableStack();
  const api = {
    outstanding: {
      generation: 1,
      decisions: [] as object[],
      next: null,
      paused: undefined as true | undefined,
    },
    reports: [] as Report[],
    /** Called before the answer to whoever asks for a transport key. */
    onKey: (_id: number): Promise<void> => Promise.resolve(),
    acknowledged: (): object[] => api.reports.flatMap(({ acknowledgements }) => acknowledgements),
  };
  const answerTo = async (method: string, url: string, body: string): Promise<object | undefined> => {
    if (method === 'POST') {
      api.reports.push(JSON.parse(body) as Report);
      return { rejected: [] };
    }
    if (url.includes('/outstanding')) return api.outstanding;
    const id = Number(url.split('/').at(-1));
    await api.onKey(id);
    return id < 100 ? { id, key: vector.key } : undefined;
  };
  const server = createServer((incoming, response) => {
    void text(incoming)
      .then((body) => answerTo(incoming.method!, incoming.url!, body))
      .then((answer) =>
        response.writeHead(answer === undefined ? 404 : 200).end(JSON.stringify(answer ?? {})),
      );
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  stack.defer(() => {
    server.closeAllConnections();
    server.close();
  });
  const folder = await mkdtemp(join(tmpdir(), 'abide-consumer-'));
  stack.defer(() => rm(folder, { recursive: true }));
  const file = join(folder, 'suppressions.json');
  const settings = {
    API: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    STORE: 'theirs',
    FILE: file,
  };
  Object.assign(process.env, settings);
  stack.defer(() => {
    for (const one of Object.keys(settings)) Reflect.deleteProperty(process.env, one);
  });
  const example = (await import(`${EXAMPLE}?${name}`)) as {
    catchUp: () => Promise<void>;
    take: (decisions: readonly object[]) => Promise<void>;
    report: (acknowledgements: readonly object[]) => Promise<void>;
  };
  const logged: string[] = [];
  const log = jest.spyOn(console, 'error').mockImplementation((line) => void logged.push(String(line)));
  stack.defer(() => {
    log.mockRestore();
  });
  const closing = stack.move();
  return {
    ...example,
    logged,
    api,
    file,
    /** What the file holds, without its id; undefined: there is none. */
    held: async (): Promise<object | undefined> => {
      const text = await readFile(file, 'utf8').catch(() => undefined);
      if (text === undefined) return undefined;
      return { ...JSON.parse(text), incarnation: undefined };
    },
    /** An opt-out, as the ledger gives it out and as a record of the topic. */
    optOut: (seq: number, address: string, keyId = 7) => {
      const subject_id = randomUUID();
      const sealed = seal(address, { id: keyId, secret }, [subject_id, 'email']);
      const decision = {
        seq,
        version: 1,
        subject_id,
        kind: 'email',
        suppressed: { email: '2026-11-24T09:00:00.000Z' },
        granted: {},
        transport_key_id: keyId,
      };
      const given = { ...decision, lane: 'live', attempts: 0, sealed: sealed.toString('base64url') };
      return { given, record: { ...decision, sealed } };
    },
    [Symbol.asyncDispose]: () => closing.disposeAsync(),
  };
}
const SUPPRESSED = { version: 1, scopes: { email: true } };

// The example wrote what the topic brought even while its operators had paused the store.
test('the example writes nothing while its store is paused, and catches up once it is resumed', async () => {
  await using example = await startExample('paused');
  const { api } = example;
  const ada = example.optOut(1, 'ada@example.com');
  api.outstanding.paused = true;

  await example.catchUp();
  await example.take([ada.record]);
  expect([await example.held(), api.acknowledged()]).toEqual([undefined, []]);

  api.outstanding = { ...api.outstanding, paused: undefined, decisions: [ada.given] };
  await example.catchUp();
  expect(await example.held()).toEqual({ 'email:ada@example.com': SUPPRESSED });
  await example.take([ada.record]);
  expect(api.acknowledged()).toMatchObject([
    { seq: 1, outcome: 'verified', carried_by: 'catch_up' },
    { seq: 1, outcome: 'verified', carried_by: 'stream' },
  ]);
});

// Seen: the one waited for its key with a copy of the file in hand, and wrote that over what the other had acknowledged.
test('what the topic brings while the example waits for a key is not lost', async () => {
  await using example = await startExample('together');
  const { api } = example;
  const ada = example.optOut(1, 'ada@example.com', 7);
  const grace = example.optOut(2, 'grace@example.com', 8);
  api.outstanding.decisions = [ada.given];
  const asked = Promise.withResolvers<true>();
  const graceIsDone = Promise.withResolvers<true>();
  api.onKey = async (id) => {
    if (id !== 7) return;
    asked.resolve(true);
    await graceIsDone.promise;
  };

  const caughtUp = example.catchUp();
  await asked.promise;
  await example.take([grace.record]).finally(() => {
    graceIsDone.resolve(true);
  });
  await caughtUp;

  expect(await example.held()).toEqual({
    'email:ada@example.com': SUPPRESSED,
    'email:grace@example.com': SUPPRESSED,
  });
  expect(api.acknowledged()).toMatchObject([
    { seq: 2, outcome: 'verified' },
    { seq: 1, outcome: 'verified' },
  ]);
});

// Seen: one of them ended the program, at each of its starts.
test('somebody erased, or whose address does not open, holds up nobody in the example', async () => {
  await using example = await startExample('erased');
  const { api } = example;
  const erased = { ...example.optOut(1, 'ada@example.com').given, sealed: null, transport_key_id: null };
  const spoilt = { ...example.optOut(2, 'ada@example.com').given, sealed: 'AA' };
  api.outstanding.decisions = [erased, spoilt, example.optOut(3, 'grace@example.com').given];
  await example.catchUp();
  expect(example.logged).toEqual([expect.stringContaining('the address of 2 does not open')]);
  expect(await example.held()).toEqual({ 'email:grace@example.com': SUPPRESSED });
  expect(api.acknowledged()).toMatchObject([
    { seq: 1, outcome: 'refused', code: 'ADDRESS_ERASED' },
    { seq: 3, outcome: 'verified' },
  ]);
});

// Found by reading: whoever may write to the topic stopped its partition for good.
test('a record that does not open holds up none after it in the example, and is left to the ledger', async () => {
  await using example = await startExample('records');
  const { api } = example;
  const ada = example.optOut(1, 'ada@example.com').record;
  await example.take([
    { ...ada, sealed: null },
    { ...ada, sealed: Buffer.of(1, 2, 3) },
    { ...ada, transport_key_id: 100 },
    example.optOut(2, 'grace@example.com').record,
  ]);
  expect(example.logged).toHaveLength(3);
  expect(await example.held()).toEqual({ 'email:grace@example.com': SUPPRESSED });
  expect(api.acknowledged()).toMatchObject([{ seq: 2, outcome: 'verified' }]);
});

// Found by reading: a file that was lost began anew with nobody in it, and the ledger went on counting on the old one.
test('the example tells the ledger that its file was lost', async () => {
  await using example = await startExample('lost');
  const { api } = example;
  const ada = example.optOut(1, 'ada@example.com').record;
  const observed = async (): Promise<unknown> => {
    await example.report([]);
    return api.reports.at(-1)!.observed?.incarnation;
  };
  expect(await observed()).toBeNull();
  await example.take([ada]);
  const first = await observed();
  await example.take([ada]);
  expect([first, await observed()]).toEqual([expect.any(String), first]);
  // Plain addresses.
  expect((await stat(example.file)).mode & 0o777).toBe(0o600);

  await rm(example.file);
  expect(await observed()).toBeNull();
  await example.take([ada]);
  expect(await observed()).not.toBe(first);
});

test('the page names every captured column, and no other', async () => {
  let sql = '';
  await up({ raw: (text: string) => Promise.resolve((sql = text)) } as never);
  const [, columns] = /create publication abide for table\s+decisions \(([^)]+)\)/.exec(sql)!;
  const named = tableOf(page.slice(page.indexOf('| field ')))
    .flatMap(([cell]) => [...cell!.matchAll(/`([a-z_]+)`/g)].map(([, name]) => name!))
    .filter((name) => !name.startsWith('__'));
  expect(named.toSorted()).toEqual(columns!.split(/,\s*/).toSorted());
});

test('the page says what each rejection means, and of no other', () => {
  const named = tableOf(page.slice(page.indexOf('| `code` of what was rejected'))).map(([code]) => code);
  expect(named).toEqual(REJECTIONS.map((code) => `\`${code}\``));
});

test('the topic is as the page says', () => {
  const { partitions, config } = readTopics().get('abide.public.decisions')!;
  expect(partitions).toBe(12);
  expect(Number(config['retention.ms'])).toBe(7 * 86_400_000);
  expect(page).toContain('Twelve partitions, kept for seven days.');
});
