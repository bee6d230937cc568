// `abide keys rotate-pepper`, as an operator types it beside a running Abide.
import { expect, test } from '@jest/globals';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runAbide, startAbide } from '../harness/abide.ts';
import { eventually } from '../harness/eventually.ts';
import { createSend, WHEN_COMPLETE } from '../harness/http.ts';

const rotate = ['keys', 'rotate-pepper'];

test('until it is started again nobody is said to be free; then everybody is found, who was erased and the canary as well', async () => {
  await using abide = await startAbide();
  await abide.stop();
  await abide.start(`canary: { every_seconds: 1 }
stores:
  crm: { connector: postgres, url: '${abide.databaseUrl('crm')}', scopes: [email, sms, push] }
`);
  const db = await abide.connect();
  await eventually(async () => expect((await db.query('select from canaries')).rowCount).toBe(1));
  const send = createSend(abide.url);
  const post = (path: string, body: object) =>
    send('POST', path, { key: abide.key, body, headers: WHEN_COMPLETE });
  const check = async () => {
    const items = ['ada', 'bob', 'carol'].map((name) => ({
      identifiers: [{ email: `${name}@example.com` }],
      scope: 'email',
    }));
    const { status, json } = await post('/v2/checks', { items });
    return status === 200 ? json.items.map(({ allowed }: { allowed: boolean }) => allowed) : json.detail;
  };
  for (const name of ['ada', 'bob']) {
    const { json } = await post('/v1/opt-outs', { subject: { email: `${name}@example.com` } });
    expect(json.propagation.state).toBe('complete');
  }
  await post('/v2/subjects/erasure', { identifiers: [{ email: 'bob@example.com' }] });
  const file = join(abide.dataFolder, 'keys.json');
  const ring = await readFile(file, 'utf8');

  const given = await runAbide(rotate, { ABIDE_DATA: abide.dataFolder, ABIDE_KEYS: ring });
  expect(given).toMatchObject({ code: 0, output: expect.stringContaining('Nothing is changed yet.') });
  expect((JSON.parse(given.stdout) as { keys: object[] }).keys).toHaveLength(4);
  expect(await check()).toEqual([false, false, true]);

  // Ada and the canary.
  expect(await runAbide([...rotate, '--data', abide.dataFolder])).toMatchObject({
    code: 0,
    stdout: `2 people are found by pepper key 4 now
1 erased: found by the pepper of before, which stays in the ring for good
Back up ${file}, and start every Abide again with it: until then its calls fail. Workers have no ring.
`,
  });
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  expect(await check()).toBe(
    'The pepper was replaced: this process must be started again with the new key ring.',
  );

  await db.end();
  await abide.stop();
  await abide.start();
  expect(await check()).toEqual([false, false, true]);
  const list = join(abide.dataFolder, 'list.csv');
  await writeFile(list, 'email\nada@example.com\nbob@example.com\ncarol@example.com\n');
  const imported = await runAbide(['import', list, '--scopes', 'email', '--json'], {
    ABIDE_URL: abide.url,
    ABIDE_KEY: abide.key,
  });
  // Bob is back, and named to the store again.
  expect((JSON.parse(imported.stdout) as { counts: object }).counts).toMatchObject({
    recorded: 2,
    already: 1,
  });
  expect(await check()).toEqual([false, false, false]);
  const restarted = await abide.connect();
  const { rows } = await restarted.query(
    `select pepper_id::int as pepper, count(*)::int as people, count(c.kind)::int as canaries
     from subjects s left join canaries c on c.subject_id = s.id group by 1 order by 1`,
  );
  await restarted.end();
  expect(rows).toEqual([
    { pepper: 1, people: 1, canaries: 0 },
    { pepper: 4, people: 3, canaries: 1 },
  ]);
  expect(await runAbide([...rotate, '--data', abide.dataFolder])).toMatchObject({
    code: 0,
    stdout: `1 person is found by pepper key 4 now
This finished an earlier replacement. To replace the pepper once more, type it again.
`,
  });
});
