// What stops a stack before anything is made or started: it needs neither Java nor a database.
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { runAbide } from '../harness/abide.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'abide-stack-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

// It was said after the database had been made, the first time also after Maven's minute.
test('a port that is taken is said first of all, and nothing is made', async () => {
  await using taken = createServer();
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
  const { port } = taken.address() as AddressInfo;
  const data = join(folder, 'taken');

  const { code, output } = await runAbide(['stack', '--data', data], {
    PORT: String(port),
    JAVA_HOME: join(folder, 'no-jdk'),
  });

  expect(code).toBe(1);
  expect(output).toContain(`abide: Port ${port} is taken: set PORT to another one.\n`);
  expect(existsSync(data)).toBe(false);
});

test('if nothing could be started, no logs are pointed to', async () => {
  const { code, output } = await runAbide(['stack', '--data', join(folder, 'no-java')], {
    PORT: '0',
    JAVA_HOME: join(folder, 'no-jdk'),
  });

  expect(code).toBe(1);
  expect(output).toMatch(
    /needs a JDK 17 or later[^]*\n {2}Fix what is named, and start again\. \(STACK_FAILED\)/,
  );
  expect(output).not.toMatch(/\blogs?\b/);
});
