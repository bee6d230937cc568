import { expect, test } from '@jest/globals';
import { listOwnAlways } from '../../consumers/list-own.ts';
import type { Listed, ListedKey } from '../../suppression/own-suppression.ts';

type Entry = ListedKey & { held: { version: undefined; suppressed: string[] } };
const entry = (key: string, ...suppressed: string[]): Entry => ({
  kind: 'email',
  key,
  held: { version: undefined, suppressed },
});

/** A store that lists this many at once, and what is told of it until its list is over. */
async function list(
  entries: readonly Entry[],
  { atOnce = 10_000, scopes = ['email', 'sms'] }: { atOnce?: number; scopes?: string[] } = {},
  scanned: (ListedKey | undefined)[] = [],
): Promise<Listed[]> {
  const told: Listed[] = [];
  const over = new AbortController();
  let pages = 0;
  let after: ListedKey | undefined;
  await listOwnAlways({
    ledger: {
      listingPage: () => Promise.resolve({ generation: 1, pages, after, scopes, pauseMs: 0 }),
      listed: (page, listed) => {
        expect(page.pages).toBe(pages);
        pages += 1;
        after = listed.through ?? after;
        told.push(listed);
        if (listed.isLast) over.abort();
        return Promise.resolve();
      },
    },
    scan: (from) => {
      scanned.push(from);
      const at = from === undefined ? 0 : entries.findIndex(({ key }) => key > from.key);
      return Promise.resolve(at < 0 ? [] : entries.slice(at, at + atOnce));
    },
    onFailure: (error) => {
      throw error;
    },
    signal: over.signal,
  });
  return told;
}

const numbered = (count: number): Entry[] =>
  Array.from({ length: count }, (_, n) => entry(`${String(n).padStart(6, '0')}@example.com`, 'email'));

test('told is who is suppressed, of the scopes that were asked for, and how many were looked at', async () => {
  const entries = [entry('a', 'sms', 'push'), entry('b'), entry('c', 'push'), entry('d', 'email', 'sms')];
  expect(await list(entries)).toEqual([
    {
      through: { kind: 'email', key: 'd' },
      isLast: false,
      listed: 4,
      suppressed: [
        { kind: 'email', key: 'a', scopes: ['sms'] },
        { kind: 'email', key: 'd', scopes: ['email', 'sms'] },
      ],
    },
    { through: undefined, isLast: true, listed: 0, suppressed: [] },
  ]);
});

test('what a store lists at once goes into reports of 500, and the store is asked once for it', async () => {
  const scanned: (ListedKey | undefined)[] = [];
  const told = await list(numbered(2_500), { atOnce: 2_000 }, scanned);
  expect(told.map(({ listed }) => listed)).toEqual([500, 500, 500, 500, 500, 0]);
  expect(new Set(told.flatMap(({ suppressed }) => suppressed.map(({ key }) => key))).size).toBe(2_500);
  expect(scanned.map((after) => after?.key)).toEqual([undefined, '001999@example.com', '002499@example.com']);
});

test('keys as long as can be go into smaller reports, and what is nobody’s for its length is passed by', async () => {
  const long = (n: number, length: number): Entry => entry(String(n).padEnd(length, 'x'), 'email');
  const told = await list([
    long(1, 4_096),
    long(2, 4_097),
    ...Array.from({ length: 40 }, (_, n) => long(n + 300, 4_096)),
  ]);
  const keys = told.flatMap(({ suppressed }) => suppressed.map(({ key }) => key));
  expect(keys).toHaveLength(41);
  expect(told.length).toBeGreaterThan(3);
  for (const { suppressed } of told) expect(JSON.stringify(suppressed).length).toBeLessThan(128 * 1024);
});

// Found by reading: such a page ended the list, and whoever came after it was never recorded.
test('a page of nothing but keys that are nobody’s does not end the list', async () => {
  const nobody = [entry('a'.repeat(4_097), 'email'), entry('b\ud800', 'email')];
  const told = await list([...nobody, entry('c', 'email')], { atOnce: 1 });
  expect(told.map(({ through, isLast }) => [through?.key, isLast])).toEqual([
    ['c', false],
    [undefined, true],
  ]);
});

test('what the store or the ledger fails is asked for again, from where the ledger has it', async () => {
  const failures: unknown[] = [];
  const over = new AbortController();
  const scanned: unknown[] = [];
  let answers = 0;
  await listOwnAlways({
    ledger: {
      listingPage: () =>
        Promise.resolve({
          generation: 1,
          pages: 3,
          after: { kind: 'email', key: 'k' },
          scopes: ['email'],
          pauseMs: 0,
        }),
      listed: () => {
        answers += 1;
        if (answers === 1) return Promise.reject(new Error('the ledger is away'));
        over.abort();
        return Promise.resolve();
      },
    },
    scan: (after) => {
      scanned.push(after);
      return scanned.length === 1 ? Promise.reject(new Error('the store is away')) : Promise.resolve([]);
    },
    onFailure: (error) => failures.push((error as Error).message),
    signal: over.signal,
  });
  expect(failures).toEqual(['the store is away', 'the ledger is away']);
  expect(scanned).toEqual(Array(3).fill({ kind: 'email', key: 'k' }));
});
