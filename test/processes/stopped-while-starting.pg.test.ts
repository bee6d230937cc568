// If a start was told to end between its readiness and its first await, it left the database that it had started running without a
// parent: seen when a supervisor stopped `npm start` the moment /readyz answered.
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { spawnAbide } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { freePort } from '../harness/free-port.ts';

const moments: Readonly<Record<string, (at: { folder: string; url: string }) => boolean | Promise<boolean>>> =
  {
    'the cluster is being made': ({ folder }) => existsSync(join(folder, 'postgres.json')),
    'the database is starting': ({ folder }) => existsSync(join(folder, 'postgres/postmaster.pid')),
    'it is ready': async ({ url }) => (await fetch(`${url}/readyz`)).status === 200,
  };

test.each(Object.keys(moments))('told to end when %s, it ends its database too', async (moment) => {
  const folder = await mkdtemp(join(tmpdir(), 'abide-stopped-'));
  const port = await freePort();
  const { child, ended, output } = spawnAbide(['serve', '--data', folder], { PORT: String(port) });
  try {
    await eventually(async () => {
      if (!(await moments[moment]!({ folder, url: `http://127.0.0.1:${port}` }))) throw new Error(output());
    });
    child.kill('SIGTERM');
    await ended;
    expect(existsSync(join(folder, 'postgres/postmaster.pid'))).toBe(false);
    expect(output()).toMatch(/SIGTERM: stopping[\s\S]*stopped/);
  } finally {
    child.kill('SIGKILL');
    await rm(folder, { recursive: true, force: true });
  }
});

// A terminal signals the whole process group. initdb was in it and ended half-way: "stopped", and then an error and exit code 1.
test('Ctrl-C while the cluster is being made is a clean stop, and the next start is as if there had been none', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'abide-stopped-'));
  const start = () => spawnAbide(['serve', '--data', folder], { PORT: '0' }, { detached: true });
  let abide = start();
  const interrupt = async (): Promise<void> => {
    process.kill(-abide.child.pid!, 'SIGINT');
    expect([await abide.ended, abide.output()]).toEqual([
      0,
      expect.stringMatching(/SIGINT: stopping[\s\S]*stopped\n$/) as unknown,
    ]);
  };
  try {
    const made = join(folder, `postgres.new-${abide.child.pid}/cluster/global/pg_control`);
    await eventually(() => expect([existsSync(made), abide.output()]).toContain(true));
    await interrupt();

    abide = start();
    await eventually(() => expect(abide.output()).toContain('ready after'));
    await interrupt();
  } finally {
    abide.child.kill('SIGKILL');
    await rm(folder, { recursive: true, force: true });
  }
});
