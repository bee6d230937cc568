// What a process brought to disk, by --import: the inode of each file and folder is a line of ABIDE_TEST_SYNCED, in order.
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

const { fsyncSync } = fs;
fs.fsyncSync = (descriptor) => {
  fsyncSync(descriptor);
  fs.appendFileSync(process.env.ABIDE_TEST_SYNCED, `${fs.fstatSync(descriptor).ino}\n`);
};
syncBuiltinESMExports();
