import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';
import { readPage } from './markdown.ts';

test('every test that docs/security.md names is there, and every one of the ten risks names one', () => {
  const page = readPage('docs/security.md');
  const risks = page.split('\n').filter((line) => /^\| API\d+ /.test(line));
  expect(risks.map((line) => /^\| (API\d+)/.exec(line)![1])).toEqual(
    Array.from({ length: 10 }, (_, n) => `API${n + 1}`),
  );
  for (const line of risks) {
    const named = [...line.matchAll(/`(test\/[^`]+)`/g)].map(([, path]) => path!);
    expect(named).not.toEqual([]);
    for (const path of named)
      expect([path, existsSync(fileURLToPath(new URL(`../../${path}`, import.meta.url)))]).toEqual([
        path,
        true,
      ]);
  }
});
