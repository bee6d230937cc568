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

/** How many requirements each section of ASVS 5.0.0 has, for the chapters that the page goes through. */
const ASVS = {
  1: [2, 10, 12, 3, 3],
  2: [3, 3, 5, 2],
  4: [5, 5, 2, 4],
  5: [1, 6, 3, 3],
  6: [3, 12, 8, 6, 8, 4, 2, 4],
  7: [3, 4, 2, 5, 3, 2],
  8: [4, 4, 3, 2],
  9: [3, 4],
  10: [2, 3, 5, 16, 5, 2, 3],
  11: [4, 5, 5, 4, 2, 2, 2],
  12: [5, 2, 5],
  13: [4, 6, 4, 7],
  14: [2, 8, 3],
  15: [5, 5, 7, 4],
  16: [1, 5, 4, 3, 4],
};

test('every requirement of the chapters of ASVS stands in docs/security.md once, with a test, a reason or a gap', () => {
  const lines = page.split('\n').filter((line) => /^\| \d+\.\d+\.\d+/.test(line));
  const named = lines.flatMap((line) =>
    line
      .split('|')[1]!
      .split(',')
      .flatMap((part) => {
        const [, section, from, , to = from] =
          /^(\d+\.\d+)\.(\d+)(?:–(\d+\.\d+)\.(\d+))?$/.exec(part.trim()) ?? [];
        expect([part, section]).toEqual([part, expect.any(String)]);
        return Array.from(
          { length: Number(to) - Number(from) + 1 },
          (_, n) => `${section}.${Number(from) + n}`,
        );
      }),
  );
  const all = Object.entries(ASVS).flatMap(([chapter, sections]) =>
    sections.flatMap((count, section) =>
      Array.from({ length: count }, (_, n) => `${chapter}.${section + 1}.${n + 1}`),
    ),
  );
  expect([...named].sort()).toEqual([...all].sort());
  for (const line of lines)
    expect([line, namedIn(line).length > 0 || /does not apply: |Gap: /.test(line)]).toEqual([line, true]);
});
