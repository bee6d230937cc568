import { expect, test } from '@jest/globals';
import { readTopics } from '../../debezium/files.ts';
import { up } from '../../ledger/migrations/0001-ledger.ts';
import { REJECTIONS } from '../../suppression/acknowledgement.ts';
import { open } from '../../suppression/seal.ts';
import { after, blocksOf, readPage, tableOf } from './markdown.ts';

/** A program without types. */
const EXAMPLE: string = '../../docs/examples/topic-consumer.mjs';
const page = readPage('docs/consume-the-topic.md');

test("the page's test vector opens by our code, and by the example that has none of it", async () => {
  const [block] = blocksOf(after(page, 'test vector'), 'json');
  const vector = JSON.parse(block!) as Record<'key' | 'subject_id' | 'kind' | 'sealed' | 'address', string>;
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
