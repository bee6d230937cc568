import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { z } from 'zod';
import { Stanza, loadConfiguration } from '../../config/configuration.ts';
import type { Connector } from '../../connectors/contract/connector.ts';
import http from '../../connectors/http.ts';
import mysql from '../../connectors/mysql.ts';
import postgres from '../../connectors/postgres.ts';
import redis from '../../connectors/redis.ts';
import sqliteStore from '../../docs/examples/sqlite-store.ts';
import { loadConnector } from '../../processes/load-connector.ts';
import { after, blocksOf, readPage, tableOf } from './markdown.ts';

const page = readPage('docs/connectors.md');

type Schema = {
  properties?: Record<string, Schema>;
  required?: string[];
  default?: string | number | boolean;
  description?: string;
};

/** One row per option: its name, what holds without it, its description. */
function optionsOf({ properties = {}, required = [] }: Schema, prefix = ''): string[][] {
  return Object.entries(properties).flatMap(([name, schema]) => {
    const absent =
      schema.default !== undefined
        ? `\`${String(schema.default)}\``
        : required.includes(name)
          ? 'required'
          : '';
    return [
      [`\`${prefix}${name}\``, absent, schema.description ?? 'has no description'],
      ...optionsOf(schema, `${prefix}${name}.`),
    ];
  });
}

test.each([
  ['every stanza', Stanza],
  ['postgres', postgres.options],
  ['mysql', mysql.options],
  ['redis', redis.options],
  ['http', http.options],
])('the options of %s are those that its schema takes', (name, schema) => {
  const options = optionsOf(z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as Schema);
  expect(tableOf(after(page, `options: ${name}`))).toEqual(options);
});

test("the example of a connector of one's own is the one that passes the suite", () => {
  expect(blocksOf(after(page, 'example: sqlite-store.ts'), 'ts')[0]).toBe(
    readPage('docs/examples/sqlite-store.ts'),
  );
  expect(blocksOf(after(page, 'test: sqlite-store'), 'ts')[0]).toBe(
    readPage('test/docs/sqlite-store.test.ts').replace('../../docs/examples/', './'),
  );
});

test.each(['docs/connectors.md', 'docs/guard.md', 'docs/http-connector.md', 'README.md'])(
  'every stanza of %s is one that Abide takes',
  async (path) => {
    const folder = await mkdtemp(join(tmpdir(), 'abide-docs-'));
    const file = join(folder, 'abide.yaml');
    try {
      const blocks = blocksOf(readPage(path), 'yaml');
      expect(blocks.length).toBeGreaterThan(0);
      for (const block of blocks) {
        const isWhole = block.startsWith('stores:');
        await writeFile(file, isWhole ? block : `stores:\n${block.replaceAll(/^/gm, '  ')}`);
        const { stores } = await loadConfiguration({
          path: file,
          env: {
            CRM_URL: 'postgres://crm.internal/crm',
            SHOP_URL: 'mysql://shop.internal/shop',
            MAIL_SECRET: 'a secret of the tests',
          },
          // Node, not Jest, loads a file by its path: test/cli/config-check.pg.test.ts.
          loadConnector: (name) =>
            name === './sqlite-store.ts'
              ? Promise.resolve(sqliteStore as Connector)
              : loadConnector(name, folder),
          embeddedStoreUrl: () => Promise.reject(new Error('not asked with a file')),
        });
        expect(stores.length).toBeGreaterThan(0);
      }
    } finally {
      await rm(folder, { recursive: true });
    }
  },
);
