use super::*;

/// Each with what must be gone. Nothing else of the text may be: `Hidden` and what is around it.
const SECRETS: &[(&str, &str)] = &[
    // URLs
    ("postgres://app:hunter2@db.example:5432/app", "postgres://app:[hidden]@db.example:5432/app"),
    ("redis://:hunter2@cache:6379/0", "redis://:[hidden]@cache:6379/0"),
    ("amqp://u:p%40ss:w@mq/", "amqp://u:[hidden]@mq/"),
    ("git clone https://user:pa@ss@host/x.git", "git clone https://user:[hidden]@host/x.git"),
    ("https://0123456789abcdef0123@gitea.example/x", "https://[hidden]@gitea.example/x"),
    ("curl https://hooks.slack.com/services/T000/B000/XXXXXXXX", "curl https://hooks.slack.com/services/[hidden]"),
    ("https://discord.com/api/webhooks/123456/abc-DEF_1", "https://discord.com/api/webhooks/123456/[hidden]"),
    ("https://x.example/a?key=abc&b=1", "https://x.example/a?key=[hidden]&b=1"),
    ("https://x/?a=1&access_token=abc.def&b=2", "https://x/?a=1&access_token=[hidden]&b=2"),
    ("https://s3/x?X-Amz-Signature=abcdef#frag", "https://s3/x?X-Amz-Signature=[hidden]#frag"),
    ("https://b.blob/x?sv=2020&sig=a%2Fb", "https://b.blob/x?sv=2020&sig=[hidden]"),
    // Headers
    ("curl -H 'Authorization: Bearer abc' http://x", "curl -H 'Authorization: Bearer [hidden]' http://x"),
    ("curl -H Authorization:abc", "curl -H Authorization:[hidden]"),
    ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [hidden]"),
    ("proxy-authorization: Digest username=\"a\", nonce=x", "proxy-authorization: Digest [hidden]\"a\", nonce=x"),
    ("\"authorization\": \"token abc\"", "\"authorization\": \"token [hidden]\""),
    ("bearer abcdefghijklmnop", "bearer [hidden]"),
    ("-H 'X-Api-Key: abc' -v", "-H 'X-Api-Key: [hidden]' -v"),
    ("X-Vault-Token: s.abc", "X-Vault-Token: [hidden]"),
    ("-H 'PRIVATE-TOKEN: abc'", "-H 'PRIVATE-TOKEN: [hidden]'"),
    ("curl -H 'Cookie: session=abc; b=2' x", "curl -H 'Cookie: [hidden]' x"),
    // Options
    ("app --password=hunter2 --port 80", "app --password=[hidden] --port 80"),
    ("app --password hunter2 --port 80", "app --password [hidden] --port 80"),
    ("app --password=pässwörd漢 é", "app --password=[hidden] é"),
    ("é漢 --password pässwörd漢", "é漢 --password [hidden]"),
    ("app --password 'two words' x", "app --password '[hidden]' x"),
    ("app --password=\"two words\" x", "app --password=\"[hidden]\" x"),
    ("app --db-password=a,b;c", "app --db-password=[hidden]"),
    ("app -password hunter2", "app -password [hidden]"),
    ("app --passphrase=x", "app --passphrase=[hidden]"),
    ("app --api-key abc", "app --api-key [hidden]"),
    ("app --apikey=abc", "app --apikey=[hidden]"),
    ("app --github-token abc", "app --github-token [hidden]"),
    ("app --client_secret=abc", "app --client_secret=[hidden]"),
    ("app --pass abc", "app --pass [hidden]"),
    ("app --db.pass=abc", "app --db.pass=[hidden]"),
    ("app --http-passwd=abc x", "app --http-passwd=[hidden] x"),
    ("redis-server --requirepass foobared", "redis-server --requirepass [hidden]"),
    ("redis-server --masterauth foobared", "redis-server --masterauth [hidden]"),
    ("java -Dspring.datasource.password=x -jar a.jar", "java -Dspring.datasource.password=[hidden] -jar a.jar"),
    ("java -Djavax.net.ssl.keyStorePassword=changeit A", "java -Djavax.net.ssl.keyStorePassword=[hidden] A"),
    ("minio --secret-key=abc --access-key=def", "minio --secret-key=[hidden] --access-key=[hidden]"),
    ("k3s agent --token K10abc::server:def", "k3s agent --token [hidden]"),
    ("vault login -token=abc", "vault login -token=[hidden]"),
    // Assignments
    ("PGPASSWORD=hunter2 psql -h db", "PGPASSWORD=[hidden] psql -h db"),
    ("env MYSQL_PWD_X=1 DB_PASS=abc ./run", "env MYSQL_PWD_X=1 DB_PASS=[hidden] ./run"),
    ("AWS_SECRET_ACCESS_KEY=abc/def+g aws s3 ls", "AWS_SECRET_ACCESS_KEY=[hidden] aws s3 ls"),
    ("AWS_SESSION_TOKEN=abc x", "AWS_SESSION_TOKEN=[hidden] x"),
    ("GITHUB_TOKEN=abc x", "GITHUB_TOKEN=[hidden] x"),
    ("docker run -e POSTGRES_PASSWORD=abc postgres", "docker run -e POSTGRES_PASSWORD=[hidden] postgres"),
    ("token=abc", "token=[hidden]"),
    ("?token=abc&x=1", "?token=[hidden]&x=1"),
    ("host=db user=a password=b dbname=c", "host=db user=a password=[hidden] dbname=c"),
    ("Server=db;Uid=sa;Pwd=abc;Timeout=3", "Server=db;Uid=sa;Pwd=[hidden];Timeout=3"),
    ("Server=db;User Id=sa;Password=abc;T=3", "Server=db;User Id=sa;Password=[hidden];T=3"),
    (
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=bG9uZw==;E=1",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=[hidden];E=1",
    ),
    ("SharedAccessKey=abc=", "SharedAccessKey=[hidden]"),
    ("{\"password\": \"abc\", \"user\": \"x\"}", "{\"password\": \"[hidden]\", \"user\": \"x\"}"),
    ("{'api_key':'abc'}", "{'api_key':'[hidden]'}"),
    ("db_password: abc", "db_password: [hidden]"),
    // Programs
    ("mysql -u root -phunter2 app", "mysql -u root -p[hidden] app"),
    ("/usr/bin/mysqldump --all -phunter2", "/usr/bin/mysqldump --all -p[hidden]"),
    ("mariadb -phunter2", "mariadb -p[hidden]"),
    ("sshpass -p hunter2 ssh -p 22 host", "sshpass -p [hidden] ssh -p 22 host"),
    ("sshpass -phunter2 ssh host", "sshpass -p[hidden] ssh host"),
    ("curl -s -u user:hunter2 http://x", "curl -s -u user:[hidden] http://x"),
    ("curl --user user:hunter2 http://x", "curl --user user:[hidden] http://x"),
    ("wget --http-password=abc http://x", "wget --http-password=[hidden] http://x"),
    ("redis-cli -h x -a abc ping", "redis-cli -h x -a [hidden] ping"),
    ("mongodump -u a -p abc", "mongodump -u a -p [hidden]"),
    ("ldapsearch -x -D cn=a -w abc", "ldapsearch -x -D cn=a -w [hidden]"),
    ("smbclient //s/x -U a%abc", "smbclient //s/x -U a%[hidden]"),
    ("sqlcmd -S db -U sa -P abc", "sqlcmd -S db -U sa -P [hidden]"),
    ("zip -P abc a.zip b", "zip -P [hidden] a.zip b"),
    ("7z x -pabc a.7z", "7z x -p[hidden] a.7z"),
    ("snmpwalk -v2c -c public2 host", "snmpwalk -v2c -c [hidden] host"),
    ("openssl enc -aes-256-cbc -k abc", "openssl enc -aes-256-cbc -k [hidden]"),
    ("openssl rsa -passin pass:abc -in k", "openssl rsa -passin pass:[hidden] -in k"),
    ("htpasswd -b file user abc", "htpasswd -b file user [hidden]"),
    // Tokens by their form
    ("x AKIAIOSFODNN7EXAMPLE y", "x [hidden] y"),
    ("ASIAIOSFODNN7EXAMPLE", "[hidden]"),
    ("ghp_0123456789abcdefghij0123456789abcdef", "[hidden]"),
    ("/tmp/ghs_0123456789abcdefghij/x", "/tmp/[hidden]/x"),
    ("github_pat_11AAAAAAA0123456789abcdef", "[hidden]"),
    ("glpat-0123456789abcdefghij", "[hidden]"),
    ("xoxb-123456789012-abcdefghijkl", "[hidden]"),
    ("xapp-1-A0-123-abc", "[hidden]"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_", "[hidden]"),
    ("AIzaSyA0123456789abcdefghijklmnopqrstuv", "[hidden]"),
    ("ya29.a0AfH6SMC0123456789abc", "[hidden]"),
    ("sk_live_0123456789abcdef", "[hidden]"),
    ("npm_0123456789abcdefghij0123456789abcdef", "[hidden]"),
    ("pypi-AgEIcHlwaS5vcmcCJDAwMDAw", "[hidden]"),
    ("SG.0123456789abcdef.0123456789abcdef", "[hidden]"),
    ("sk-proj-0123456789abcdefghij", "[hidden]"),
    ("hf_0123456789abcdefghij", "[hidden]"),
    ("hvs.0123456789abcdefghij", "[hidden]"),
    ("dckr_pat_0123456789abcdefghij", "[hidden]"),
    (
        "https://api.telegram.org/bot123456789:AAabcdefghijklmnopqrstuvwxyz0123456/x",
        "https://api.telegram.org/bot[hidden]/x",
    ),
    ("a -----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY----- b", "a [hidden] b"),
    ("-----BEGIN OPENSSH PRIVATE KEY----- b3Bl", "[hidden]"),
    ("AGE-SECRET-KEY-1QQQQ", "[hidden]"),
];

/// What must stay as it is.
const ORDINARY: &[&str] = &[
    "",
    "postgres: writer process",
    "/usr/lib/postgresql/16/bin/postgres -D /var/lib/postgresql/16/main -c config_file=/etc/postgresql/16/main/postgresql.conf",
    "nginx: worker process",
    "/usr/sbin/sshd -D -o PasswordAuthentication=no -p 2222",
    "ssh -p 2222 -i /root/.ssh/id_ed25519 user@host",
    "scp -P 2222 a user@host:/b",
    "rsync -a --password-file=/etc/rsync.pass host::mod /x",
    "curl -u deploy https://example.com:8443/path@2/x",
    "curl -fsS http://127.0.0.1:9100/metrics",
    "http://user@host/path",
    "https://registry.npmjs.org/@babel/core/-/core-7.0.0.tgz",
    "docker run -u 1000:1000 -p 8080:80 nginx",
    "docker run --name db -v /run/secrets:/run/secrets postgres",
    "mkdir -p /a/b",
    "cp -pr a b",
    "nmap -p80,443 host",
    "gcc -pthread -o x x.c",
    "mysqld --datadir=/var/lib/mysql --pid-file=/run/mysqld.pid",
    "mysql -u root -p app",
    "mysql --port=3306 -h db",
    "kube-apiserver --authorization-mode=RBAC --token-auth-file=/etc/tokens.csv --service-account-key-file=/etc/sa.pub",
    "kubelet --bootstrap-kubeconfig=/etc/k --rotate-certificates",
    "etcd --auth-token-ttl=300 --cert-file=/a.pem --key-file=/a.key",
    "sort --key=2 file",
    "sort -k 2 file",
    "python3 train.py --tokenizer bert --max-tokens=128 --num-tokens 5",
    "python3 -m http.server --bind 127.0.0.1",
    "java -Xmx4g -Dfile.encoding=UTF-8 -jar app.jar --server.port=8080",
    "app --password --host x",
    "app --no-password",
    "passwd root",
    "pass show mail",
    "gpg --passphrase-fd 0 --batch -d x.gpg",
    "openssl s_client -connect host:443 -servername host",
    "redis-server *:6379",
    "ldapsearch -x -W -D cn=admin",
    "zip -r a.zip b",
    "7z a a.7z b",
    "tar -xpf a.tar",
    "kworker/u8:3-events_unbound",
    "SECRETS_DIR=/x TOKEN_FILE=/y PASSWORD_FILE=/z app",
    "HOME=/root PWD=/root PATH=/usr/bin:/bin",
    "compass=1 bypass=yes",
    "git log --author=someone --since=yesterday",
    "echo token of appreciation",
    "the bearer certificates",
    "basic information",
    "socket 10.0.0.1:5432 [2001:db8::1]:443",
    "/var/lib/docker/overlay2/0f9c6b8e4cdd0f9c6b8e4cdd0f9c6b8e4cdd/merged/app",
    "/proc/1234/fd/7",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
    "12:34:56.789 2026-11-29",
    "bash[4711] opens file descriptors and does not close them: 40 per second",
    "the limit of file descriptors is reached: 1,024 of 1,024",
    "sysctl vm.swappiness was set, from 60 to 10",
    "package openssl was installed, from 3.0.1 to 3.0.2",
    "cat /proc/4711/limits | grep 'open files'",
    "lsof -p 4711 -a -d 0-999",
    "strace -f -p 4711 -e trace=openat,close",
    "sk-learn",
    "risk-0123456789",
    "é漢字 ok",
];

#[test]
fn all_known_patterns_compile() {
    for pattern in KNOWN {
        known_one(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    }
    assert_eq!(known().len(), KNOWN.len());
}

#[test]
fn secrets_are_hidden_and_nothing_else_is() {
    let redaction = Redaction::default();
    let wrong: Vec<_> = SECRETS
        .iter()
        .map(|(text, expected)| (text, expected, redaction.hide(text)))
        .filter(|(_, expected, hidden)| *hidden != **expected)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn ordinary_text_stays_as_it_is() {
    let redaction = Redaction::default();
    let wrong: Vec<_> = ORDINARY.iter().map(|text| (text, redaction.hide(text))).filter(|(a, b)| **a != *b).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn hiding_twice_changes_nothing_more() {
    let redaction = Redaction::default();
    for (text, _) in SECRETS {
        let once = redaction.hide(text).into_owned();
        assert_eq!(redaction.hide(&once), once, "{text}");
    }
}

#[test]
fn secrets_are_hidden_within_other_text() {
    let redaction = Redaction::default();
    for (text, _) in SECRETS.iter().filter(|(text, _)| !text.starts_with("-----")) {
        let line = format!("sh -c {text}\nsecond line");
        assert!(redaction.finds(&line), "{line}");
    }
}

#[test]
fn patterns_of_ones_own_are_added() {
    let redaction = Redaction::new(&[r"customer-\d+", r"badge (?P<secret>\w+)"]).unwrap();
    assert_eq!(
        redaction.hide("/srv/customer-42/x badge 7b --password=x"),
        "/srv/[hidden]/x badge [hidden] --password=[hidden]"
    );
    assert_eq!(Redaction::new(&["(?i)straße"]).unwrap().hide("die STRAßE é"), "die [hidden] é");
    // What a pattern may match are bytes, what is hidden are characters.
    assert_eq!(Redaction::new(&[r"(?-u:\xc3)"]).unwrap().hide("aéb"), "a[hidden]b");
    assert!(matches!(Redaction::new(&["("]), Err(PatternError::Syntax { .. })));
    assert!(matches!(Redaction::new(&[r"\w{9999}{9999}"]), Err(PatternError::Syntax { .. })));
    assert!(matches!(Redaction::new(&["x*"]), Err(PatternError::Empty(_))));
    assert!(matches!(Redaction::new(&["x"; 65]), Err(PatternError::TooMany(65))));
    assert_eq!(Redaction::off().hide("--password=x"), "--password=x");
}

#[test]
fn long_text_takes_no_long_time() {
    let redaction = Redaction::default();
    let text = "mysql ".repeat(2_000) + &"a-".repeat(5_000) + &"://x:".repeat(500);
    let begun = std::time::Instant::now();
    let _ = redaction.hide(&text);
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
}
