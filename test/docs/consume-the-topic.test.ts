import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { expect, test } from '@jest/globals';
import { readTopics } from '../../debezium/files.ts';
import { up } from '../../ledger/migrations/0001-ledger.ts';
import { REJECTIONS } from '../../suppression/acknowledgement.ts';
import { open } from '../../suppression/seal.ts';
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

// The example wrote what the topic brought even while its operators had paused the store.
test('the example writes nothing while its store is paused, and catches up once it is resumed', async () => {
  const { key, address, ...vector } = vectorOf();
  const decision = {
    ...vector,
    seq: 1,
    version: 1,
    suppressed: { email: {} },
    granted: {},
    transport_key_id: 7,
  };
  const record = { ...decision, sealed: Buffer.from(vector.sealed, 'base64url') };
  let outstanding: object = { generation: 1, decisions: [], next: null, paused: true };
  const acknowledged: object[] = [];
  await using stack = new AsyncDisposableStack();
  const api = createServer((incoming, response) => {
    void text(incoming).then((body) => {
      if (incoming.method === 'POST') acknowledged.push(...JSON.parse(body).acknowledgements);
      const page = incoming.url!.includes('/outstanding') ? outstanding : {};
      response.end(JSON.stringify({ rejected: [], key, ...page }));
    });
  });
  await once(api.listen(0, '127.0.0.1'), 'listening');
  stack.defer(() => {
    api.closeAllConnections();
    api.close();
  });
  const folder = await mkdtemp(join(tmpdir(), 'abide-consumer-'));
  stack.defer(() => rm(folder, { recursive: true }));
  const file = join(folder, 'suppressions.json');
  const held = (): Promise<string> => readFile(file, 'utf8').catch(() => 'nothing');
  const settings = {
    API: `http://127.0.0.1:${(api.address() as AddressInfo).port}`,
    STORE: 'theirs',
    FILE: file,
  };
  Object.assign(process.env, settings);
  stack.defer(() => {
    for (const name of Object.keys(settings)) Reflect.deleteProperty(process.env, name);
  });
  const { catchUp, take } = (await import(`${EXAMPLE}?paused`)) as {
    catchUp: () => Promise<void>;
    take: (decisions: readonly object[]) => Promise<void>;
  };

  await catchUp();
  await take([record]);
  expect([await held(), acknowledged]).toEqual(['nothing', []]);

  outstanding = { generation: 1, decisions: [{ ...decision, lane: 'live' }], next: null };
  await catchUp();
  expect(JSON.parse(await held())).toEqual({
    [`email:${address}`]: { version: 1, scopes: { email: true } },
  });
  await take([record]);
  expect(acknowledged).toMatchObject([
    { seq: 1, carried_by: 'catch_up' },
    { seq: 1, carried_by: 'stream' },
  ]);
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
