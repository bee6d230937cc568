import { existsSync, globSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';
import { readPage } from './markdown.ts';

const page = readPage('docs/security.md');
const namedIn = (text: string): string[] => [...text.matchAll(/`(test\/[^`]+)`/g)].map(([, path]) => path!);

test('every test that docs/security.md names is there, and every one of the ten risks names one', () => {
  const risks = page.split('\n').filter((line) => /^\| API\d+ /.test(line));
  expect(risks.map((line) => /^\| (API\d+)/.exec(line)![1])).toEqual(
    Array.from({ length: 10 }, (_, n) => `API${n + 1}`),
  );
  for (const line of risks) expect(namedIn(line)).not.toEqual([]);
  for (const path of namedIn(page))
    expect([path, existsSync(fileURLToPath(new URL(`../../${path}`, import.meta.url)))]).toEqual([
      path,
      true,
    ]);
});

test('every attack that is tried stands in docs/security.md', () => {
  const tried = globSync('test/penetration/*.test.ts');
  expect(tried).not.toEqual([]);
  expect(tried.filter((path) => !namedIn(page).includes(path))).toEqual([]);
});
