import { copyFile, mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { Item } from '../../connectors/contract/connector.ts';
import connector from '../../docs/examples/sqlite-store.ts';
import { Address } from '../../suppression/subject.ts';

// Seen: writer and reader stayed with the deleted file, so what was written there was read back there and `verified`, and the
// legacy system, which read the restored one, went on sending.
test('a copy that was restored is read back, not the file that it replaced, and is another store', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'sqlite-store-'));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rm(folder, { recursive: true }));
  const file = join(folder, 'suppressions.db');
  const context = {
    log: { debug() {}, info() {}, warn() {}, error() {} },
    name: 'legacy',
    scopes: new Map(),
  };
  const open = () => connector.open({ file }, context);
  const signal = new AbortController().signal;
  const optOut = (key: string): Item =>
    new Item({
      seq: 1,
      version: 1,
      subject: { kind: 'email', value: new Address(key) },
      key,
      suppressed: { email: '2026-11-24T09:00:00.000Z' },
      granted: {},
      effectiveAt: '2026-11-24T09:00:00.000Z',
      lane: 'live',
    });
  const [ada, grace] = [optOut('ada@example.com'), optOut('grace@example.com')];
  const held = { version: 1, suppressed: ['email'] };
  const backup = join(folder, 'backup.db');
  {
    await using store = await open();
    expect(await store.incarnation!(signal)).toBeNull();
    await store.apply([ada], signal);
  }
  await copyFile(file, backup);

  const store = stack.use(await open());
  await store.apply([grace], signal);
  const before = await store.incarnation!(signal);
  expect(await store.readBack([ada, grace], signal)).toEqual([held, held]);
  expect(await store.incarnation!(signal)).toBe(before);
  for (const one of ['-wal', '-shm']) await rm(file + one, { force: true });
  await rename(backup, file);

  expect(await store.readBack([ada, grace], signal)).toEqual([held, undefined]);
  expect(await store.incarnation!(signal)).not.toBe(before);
  await store.apply([grace], signal);
  await using another = await open();
  expect(await another.readBack([ada, grace], signal)).toEqual([held, held]);
});
