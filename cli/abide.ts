import { CommanderError, InvalidArgumentError } from 'commander';
import { EXIT, fail } from './output.ts';
import { createProgram } from './program.ts';

// `abide audit | head`: whoever read has what they wanted.
process.stdout.on('error', () => process.exit(EXIT.done));
try {
  const program = await createProgram(process.argv.slice(2));
  await program.parseAsync();
} catch (error) {
  if (error instanceof InvalidArgumentError) {
    process.stderr.write(`abide: ${error.message}\n`);
    process.exit(EXIT.usage);
  }
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? EXIT.done : EXIT.usage);
  fail(error);
}
