import { chown, mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Fail } from '../../scripts/core/fail.ts'
import { writeFileAtomic } from '../../scripts/core/file.ts'
import { measureProcess, packageVersions, type ProcessRun } from './process.ts'

/** Debian packages of the other side, and what measures the memory of both. */
const PACKAGES = ['ansible', 'ansible-core', 'python3-psycopg2', 'time'] as const

const COLLECTION = '/usr/lib/python3/dist-packages/ansible_collections/community/postgresql/MANIFEST.json'

/** What a playbook is made for. */
export interface PlaybookOptions {
  /** Made here, for the playbook and Ansible's own files. */
  readonly dir: string
  readonly socketDir: string
  readonly database: string
  readonly schema: string
  readonly connectionLimit: number
  /** Names; `secretsDir` holds a file with the password of each. */
  readonly roles: readonly string[]
  readonly secretsDir: string
  /** Who runs Ansible: the server knows the superuser by peer only. */
  readonly user: { readonly uid: number; readonly gid: number }
}

/** A playbook that can be run and measured again and again. */
export interface Playbook {
  /**
   * Runs it.
   * @param changed how many of its tasks (not items of their loops) must change something
   * @throws {Fail} `verify-failed` when it is another number, `command-failed`
   */
  run(changed: number): Promise<ProcessRun>
}

/** Tasks of the playbook that change something on an empty server. */
export const TASKS = 4

/**
 * Versions of what Ansible consists of here.
 * @throws {Fail} `not-permitted` that says what to install
 */
export async function ansibleVersions(): Promise<Record<string, string>> {
  const versions = await packageVersions(PACKAGES)
  const manifest = JSON.parse(await readFile(COLLECTION, 'utf8')) as { collection_info: { version: string } }
  return {
    ansible: `${versions['ansible']} (ansible-core ${versions['ansible-core']})`,
    'community.postgresql': `${manifest.collection_info.version} (psycopg2 ${versions['python3-psycopg2']})`,
  }
}

/** Writes the playbook that wants the same as the host file, as its modules' documentation shows it. */
export async function writePlaybook(options: PlaybookOptions): Promise<Playbook> {
  const { dir, user } = options
  const home = join(dir, 'home')
  for (const folder of [dir, home]) {
    await mkdir(folder)
    await chown(folder, user.uid, user.gid)
  }
  const file = join(dir, 'playbook.yml')
  await writeFileAtomic(file, playbookText(options), { mode: 0o644 })
  const env = {
    PATH: '/usr/bin:/bin',
    LANG: 'C.UTF-8',
    HOME: home,
    TMPDIR: home, // what a module that was ended leaves behind goes with the server's folder
    ANSIBLE_PIPELINING: 'True',
    ANSIBLE_PYTHON_INTERPRETER: '/usr/bin/python3', // saves looking for one
    ANSIBLE_NOCOLOR: 'True',
  }
  return {
    async run(changed) {
      const argv = ['/usr/bin/ansible-playbook', '--inventory', 'localhost,', file]
      const done = await measureProcess(argv, { env, user, scratch: join(dir, 'peak') })
      const found = Number(/^localhost\s.*\bchanged=(\d+)/m.exec(done.stdout)?.[1])
      if (found === changed) return done
      throw new Fail('verify-failed', `Ansible changed ${found} tasks: ${changed} are to change`)
    },
  }
}

// JSON is YAML, so a JSON text is a safe way to write any value into it.
function playbookText(options: PlaybookOptions): string {
  return `- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    roles: ${JSON.stringify(options.roles)}
    secrets: ${JSON.stringify(options.secretsDir)}
  module_defaults:
    community.postgresql.postgresql_db: &login
      login_unix_socket: ${JSON.stringify(options.socketDir)}
    community.postgresql.postgresql_schema: *login
    community.postgresql.postgresql_user: *login
    community.postgresql.postgresql_privs: *login
  tasks:
    - name: database
      community.postgresql.postgresql_db:
        name: ${JSON.stringify(options.database)}
    - name: schema
      community.postgresql.postgresql_schema:
        login_db: ${JSON.stringify(options.database)}
        name: ${JSON.stringify(options.schema)}
    - name: roles
      community.postgresql.postgresql_user:
        name: "{{ item }}"
        password: "{{ lookup('file', secrets + '/' + item) }}"
        role_attr_flags: LOGIN
        conn_limit: ${options.connectionLimit}
      loop: "{{ roles }}"
    - name: grants
      community.postgresql.postgresql_privs:
        login_db: ${JSON.stringify(options.database)}
        role: "{{ item }}"
        type: schema
        objs: ${JSON.stringify(options.schema)}
        privs: USAGE
      loop: "{{ roles }}"
`
}
