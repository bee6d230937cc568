// Kafka, Connect with Debezium, and the registry, resolved by Maven into a folder that is named after the pom: made once,
// complete or not at all, and shared by every data folder of this checkout.
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readFile, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { AbideError } from '../../suppression/errors.ts';
import { isAlive } from '../proc-stat.ts';
import { environmentOfMaven } from './environment.ts';
import { findMaven } from './find-java.ts';
import type { Java } from './find-java.ts';

const run = promisify(execFile);
const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const POM = join(ROOT, 'debezium/pom.xml');
/** Measured with an empty repository. */
const DOWNLOAD = 'about 230 MB';
const PROGRESS_MS = 10_000;

/** The server has no checksum for Debezium's archive, and Maven lets that pass. */
const ARCHIVES = {
  debezium: {
    sha256: '660673cbabd2f269da21409208ebd0f0d9977bd92e824fc9daa272f240e88e51',
    into: 'plugins',
  },
  registry: {
    sha256: '3cda1b34aa020fb4ac4dd6a66018d757e81e437f97e20a1f92d366b70091c6ba',
    into: 'registry',
  },
} as const;

/** Where the installed programs lie: libs/ (Kafka), plugins/ (Connect's), registry/. */
export async function resolveStack({
  java,
  env,
  print,
  signal,
}: {
  java: Java;
  env: NodeJS.ProcessEnv;
  print: (line: string) => void;
  signal: AbortSignal;
}): Promise<string> {
  const pom = await readFile(POM);
  const parent = join(ROOT, '.abide-stack');
  const installed = join(
    parent,
    createHash('sha256').update(pom).update(JSON.stringify(ARCHIVES)).digest('hex').slice(0, 16),
  );
  if (await exists(installed)) return installed;

  const maven = await findMaven(env);
  print(`abide: first run, resolving Kafka, Debezium and the registry with Maven (${DOWNLOAD}) …`);
  await mkdir(parent, { recursive: true });
  await removeUnfinished(parent);
  const unfinished = join(parent, `unfinished-${process.pid}`);
  await mkdir(unfinished);
  try {
    await runMaven({ maven, into: unfinished, env, print, signal });
    for (const [name, archive] of Object.entries(ARCHIVES)) {
      const file = join(unfinished, 'archives', `${name}.tar.gz`);
      await checkSum(file, archive.sha256);
      const into = join(unfinished, archive.into);
      await mkdir(into, { recursive: true });
      await run('tar', ['xzf', file, '-C', into]);
    }
    await rm(join(unfinished, 'archives'), { recursive: true });
    await announceConverter(unfinished, java);
    await rename(unfinished, installed);
  } catch (error) {
    // Another run was faster, and made the same folder.
    if (await exists(installed)) return installed;
    if (error instanceof AbideError || signal.aborted) throw error;
    throw new AbideError('STACK_FAILED', `The stack could not be installed into ${installed}.`, {
      cause: error,
    });
  } finally {
    await rm(unfinished, { recursive: true, force: true });
  }
  print('abide: resolved');
  return installed;
}

/** Removes what killed runs left, hundreds of megabytes each. */
async function removeUnfinished(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    const pid = /^unfinished-(\d+)$/.exec(name)?.[1];
    if (pid === undefined || (isAlive(Number(pid)) && Number(pid) !== process.pid)) continue;
    // Maven outlives the process that started it for a while, and writes into what is removed here.
    await rm(join(parent, name), { recursive: true, force: true, maxRetries: 10 });
  }
}

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

/** `-U`: a look-up that failed once is otherwise remembered as failed. */
function runMaven({
  maven,
  into,
  env,
  print,
  signal,
}: {
  maven: string;
  into: string;
  env: NodeJS.ProcessEnv;
  print: (line: string) => void;
  signal: AbortSignal;
}): Promise<void> {
  const child = spawn(maven, ['-B', '-ntp', '-U', '-f', POM, 'package', `-Dout=${into}`], {
    env: environmentOfMaven(env),
    stdio: ['ignore', 'pipe', 'pipe'],
    signal,
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-4_000);
    });
  }
  const began = performance.now();
  const progress = setInterval(() => {
    print(`abide: … still resolving after ${Math.round((performance.now() - began) / 1000)} s`);
  }, PROGRESS_MS);
  return new Promise<void>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => {
      if (code === 0) resolve();
      else
        reject(
          new AbideError(
            'STACK_FAILED',
            `Maven ended with ${code}. The end of what it said:\n${said.trim()}`,
          ),
        );
    });
  }).finally(() => {
    clearInterval(progress);
  });
}

async function checkSum(file: string, sha256: string): Promise<void> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  if (hash.digest('hex') !== sha256) {
    throw new AbideError(
      'STACK_FAILED',
      `${file} is not the file that this version was made with: its SHA-256 differs.`,
    );
  }
}

/** The converter's jars lack the manifest by which Connect finds plugins fast (`plugin.discovery=service_load`). */
async function announceConverter(folder: string, { jar }: Java): Promise<void> {
  const made = join(folder, 'manifest');
  await mkdir(join(made, 'META-INF/services'), { recursive: true });
  await writeFile(
    join(made, 'META-INF/services/org.apache.kafka.connect.storage.Converter'),
    'io.apicurio.registry.utils.converter.AvroConverter\n',
  );
  await run(jar, [
    '-c',
    '-f',
    join(folder, 'plugins/apicurio-converter/manifest.jar'),
    '-C',
    made,
    'META-INF',
  ]);
  await rm(made, { recursive: true });
}
