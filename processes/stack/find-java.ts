// The two programs that the stack needs from the machine. Everything else is installed.
import { execFile } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { AbideError } from '../../suppression/errors.ts';

const run = promisify(execFile);
const JAVA_MAJOR_MIN = 17;
const HOW =
  'Debian and Ubuntu: apt install openjdk-17-jdk-headless maven; macOS: brew install openjdk@21 maven. ' +
  'Or set JAVA_HOME. `docker compose up` needs neither.';

type Env = Readonly<Record<string, string | undefined>>;
export type Java = { readonly java: string; readonly jar: string; readonly major: number };

/** JAVA_HOME's, else the one on the PATH. Throws STACK_FAILED saying what is missing and how to get it. */
export async function findJava(env: Env): Promise<Java> {
  const home = env['JAVA_HOME'];
  const java = home ? join(home, 'bin', 'java') : await onPath('java', env);
  const version = java === undefined ? undefined : await versionOf(java);
  if (java === undefined || version === undefined) {
    const lacks = java === undefined ? 'there is none' : `${java} does not run`;
    // There may well be another one on the PATH, which is not looked at.
    const mend = home ? 'JAVA_HOME names that one: unset it, or set it to a JDK that runs.' : HOW;
    throw new AbideError(
      'STACK_FAILED',
      `The stack needs a JDK ${JAVA_MAJOR_MIN} or later, and ${lacks}. ${mend}`,
    );
  }
  if (version < JAVA_MAJOR_MIN) {
    throw new AbideError(
      'STACK_FAILED',
      `The stack needs a JDK ${JAVA_MAJOR_MIN} or later, and ${java} is Java ${version}. ${HOW}`,
    );
  }
  const jar = home ? join(home, 'bin', 'jar') : await onPath('jar', env);
  if (jar === undefined || !(await isProgram(jar))) {
    throw new AbideError(
      'STACK_FAILED',
      `The stack needs a JDK, and ${java} is only a JRE: there is no jar beside it. ${HOW}`,
    );
  }
  return { java, jar, major: version };
}

/** Needed only at the first run. Throws STACK_FAILED if it is missing. */
export async function findMaven(env: Env): Promise<string> {
  const maven = await onPath('mvn', env);
  if (maven !== undefined) return maven;
  throw new AbideError(
    'STACK_FAILED',
    `The stack's first run needs Maven, and mvn is not on the PATH. ${HOW}`,
  );
}

async function onPath(name: string, env: Env): Promise<string | undefined> {
  for (const folder of (env['PATH'] ?? '').split(delimiter)) {
    const program = join(folder, name);
    if (folder !== '' && (await isProgram(program))) return program;
  }
  return undefined;
}

const isProgram = (path: string): Promise<boolean> =>
  access(path, constants.X_OK).then(
    () => true,
    () => false,
  );

/** "17.0.15" is 17, "1.8.0" is 8. Undefined if it does not run (macOS has a stub that only says so). */
async function versionOf(java: string): Promise<number | undefined> {
  try {
    const { stderr } = await run(java, ['-version']);
    const [, first, second] = /version "(\d+)(?:\.(\d+))?/.exec(stderr) ?? [];
    return first === undefined ? undefined : Number(first === '1' ? second : first);
  } catch {
    return undefined;
  }
}
