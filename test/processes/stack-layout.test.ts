import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { readYaml } from '../../config/positioned-yaml.ts';
import { fillProperties } from '../../debezium/files.ts';
import { writeConfiguration } from '../../processes/stack/layout.ts';

// Seen: an abide.yaml that every other command took stopped the stack, because of the brace of a name within a flow map.
test("the stack's configuration is the user's own, its names of the environment as they stand there", async () => {
  const folder = await mkdtemp(join(tmpdir(), 'abide-layout-'));
  try {
    const own = join(folder, 'own.yaml');
    await writeFile(
      own,
      'stores:\n  crm: { connector: postgres, url: ${CRM_URL}, scopes: [email] }\n  old: { connector: ./old.ts, scopes: [sms] }\n',
    );
    const ports = { broker: 1, controller: 2, connect: 3, registry: 4 };
    const path = writeConfiguration({ folder, own: { path: own }, ports, storeUrl: undefined });
    const { value, faults } = readYaml(await readFile(path, 'utf8'), { CRM_URL: 'postgres://crm/db' });
    expect(faults).toEqual([]);
    expect(value).toMatchObject({
      source: 'kafka',
      kafka: { brokers: ['127.0.0.1:1'] },
      stores: {
        crm: { connector: 'postgres', url: 'postgres://crm/db', scopes: ['email'] },
        old: { connector: join(folder, 'old.ts') },
      },
    });
  } finally {
    await rm(folder, { recursive: true });
  }
});

// The broker made its data in a folder of another name, and the stack ended because a file that it had never named was missing.
test('a folder stands in the properties of broker and Connect as Java reads them: in Latin-1, with escapes', () => {
  const text = fillProperties('connect.properties', {
    brokers: '127.0.0.1:1',
    listener: 'http://127.0.0.1:2',
    advertised_host: '127.0.0.1',
    plugins: '/home/josé/a \\ b/plugins',
  });

  expect(text).toContain('plugin.path=/home/jos\\u00e9/a \\u005c b/plugins\n');
});
