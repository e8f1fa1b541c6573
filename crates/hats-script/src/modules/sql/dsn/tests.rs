use proptest::prelude::*;

use super::*;

/// What a DSN says, in a few words, or why it is none.
fn said(dsn: &str, driver: &str) -> String {
    let login = |login: &Login| {
        let mut text = format!("{}:{}@{}", login.user, login.password.reveal(), login.place);
        if let Place::Tcp { address: Some(address), .. } = &login.place {
            text += &format!("={address}");
        }
        text += &format!("/{}", login.database.as_deref().unwrap_or("-"));
        if login.tls != Tls::default() {
            text += &format!(" {:?}", login.tls.mode);
            for file in [&login.tls.authorities, &login.tls.certificate, &login.tls.key].into_iter().flatten()
            {
                text += &format!(" {}", file.display());
            }
        }
        if let Some(timeout) = login.connect_timeout {
            text += &format!(" within {timeout:?}");
        }
        for (name, value) in &login.settings {
            text += &format!(" {name}={value}");
        }
        text
    };
    match parse(dsn, driver).unwrap() {
        Err(malformed) => malformed.to_string(),
        Ok(Target::MySql(mysql)) => {
            let mut text = login(&mysql.login);
            if mysql.charset != "utf8mb4" || mysql.collation.is_some() {
                text += &format!(" {} {:?}", mysql.charset, mysql.collation);
            }
            if let Some(timeout) = mysql.statement_timeout {
                text += &format!(" each {timeout:?}");
            }
            if mysql.cleartext {
                text += " cleartext";
            }
            text
        }
        Ok(Target::Postgres(postgres)) => {
            let mut text = login(&postgres.login);
            if postgres.application_name != APPLICATION_NAME {
                text += &format!(" as {}", postgres.application_name);
            }
            text
        }
        Ok(Target::Sqlite(sqlite)) => format!("{sqlite:?}"),
    }
}

#[test]
fn mysql_is_read_in_both_forms() {
    const OWN_TRANSACTIONS: &str =
        "autocommit and completion_type are not available: a transaction is from BEGIN to COMMIT or ROLLBACK";
    for (dsn, expected) in [
        ("user:pw@tcp(db.example.org:3307)/app?x=y", "user:pw@db.example.org:3307/app x=y"),
        ("user:pw@tcp(h)/app", "user:pw@h:3306/app"),
        ("user@tcp(h:1)/", "user:@h:1/-"),
        ("/", ":@localhost:3306/-"),
        ("u@/db", "u:@localhost:3306/db"),
        ("u:p@tcp/db", "u:p@localhost:3306/db"),
        ("u:p@(h:5)/db", "u:p@h:5/db"),
        ("u:p@ss:w/rd?@tcp(h:1)/db", "u:p@ss:w/rd?@h:1/db"),
        ("u:p%20w@tcp(h:1)/d%2Fb", "u:p%20w@h:1/d/b"),
        ("u:p@tcp([::1]:9)/db", "u:p@[::1]:9/db"),
        ("u:p@tcp([fe80::1])/db", "u:p@[fe80::1]:3306/db"),
        ("u:p@unix(/run/mysqld/mysqld.sock)/db", "u:p@/run/mysqld/mysqld.sock/db"),
        ("u@tcp(h)/d?tls=true&ssl-ca=/etc/ca.pem", "u:@h:3306/d VerifyName /etc/ca.pem"),
        ("u:a)/b@/d", "u:a)/b@localhost:3306/d"),
        ("u:a)/b@tcp(h)/d", "u:a)/b@h:3306/d"),
        ("u@tcp(h)/d?tls=true&timeout=2s", "u:@h:3306/d VerifyName within 2s"),
        ("u@tcp(h)/d?tls=skip-verify&readTimeout=500ms", "u:@h:3306/d Required each 500ms"),
        ("u@tcp(h)/d?tls=false&parseTime=true&loc=Local", "u:@h:3306/d Disabled"),
        (
            "u@tcp(h)/d?charset=utf8mb4,utf8&collation=utf8mb4_bin",
            "u:@h:3306/d utf8mb4 Some(\"utf8mb4_bin\")",
        ),
        (
            "u@tcp(h)/d?sql_mode=%27ANSI%27&time_zone=%27%2B02:00%27",
            "u:@h:3306/d sql_mode='ANSI' time_zone='+02:00'",
        ),
        ("u@tcp(h)/d?tls=true&allowCleartextPasswords=1", "u:@h:3306/d VerifyName cleartext"),
        (
            "mysql://user:p%40w@h:3307/app?ssl-mode=VERIFY_CA&ssl-ca=/ca.pem",
            "user:p@w@h:3307/app VerifyAuthority /ca.pem",
        ),
        ("mysql://h", ":@h:3306/-"),
        ("mariadb://u@h/d", "u:@h:3306/d"),
        ("mysql://u@[::1]:9/d", "u:@[::1]:9/d"),
        ("mysql://u@h/d?socket=/s", "u:@/s/d"),
        ("mysql://u@h/d?timezone=%2B02:00", "u:@h:3306/d time_zone='+02:00'"),
        ("", "the / before the name of the database is missing"),
        ("user:pw@tcp(h:1)", "the / before the name of the database is missing"),
        ("u@tcp(h:1/db", "the ) behind the address is missing"),
        ("u@udp(h:1)/db", "the network is neither tcp(host:port) nor unix(/path)"),
        ("u@tcp(::1:3306)/db", "an IPv6 address stands in brackets, as in [::1]:3306"),
        ("u@tcp(h:x)/db", "the port is no number from 0 to 65535"),
        ("u@unix(relative)/db", "the path of the socket in unix(/path) is missing"),
        ("u@tcp(h)/d?tls=custom", "tls is one of true, false, skip-verify, preferred"),
        ("u@tcp(h)/d?a;b=c", "the name of a parameter is no name"),
        ("u@tcp(h)/d?charset=a;b", "a character set or a collation is no name"),
        ("u@tcp(h)/d?x", "a parameter has no value"),
        ("u@tcp(h)/d?timeout=soon", "a time is neither seconds nor text such as 500ms"),
        ("u@tcp(h)/d?timeout=-1", "a time is neither seconds nor text such as 500ms"),
        ("u@tcp(h)/d?ssl-cert=/c", "a client's certificate and its key go together"),
        (
            "u@tcp(h)/d?allowCleartextPasswords=true",
            "allowCleartextPasswords is only available with tls=true or tls=skip-verify",
        ),
        (
            "u@tcp(h)/d?clientFoundRows=false",
            "clientFoundRows=false is not available: db.Exec counts the rows that were found",
        ),
        ("u@tcp(h)/d?autocommit=0", OWN_TRANSACTIONS),
        ("mysql://u@h/d?Completion_Type=1", OWN_TRANSACTIONS),
        (
            "mysql://u:12/34@h/d",
            "there is an @ behind the first /: percent-encode a / in the password as %2F",
        ),
        ("mysql://u:12#34@h/d", "it has a #: percent-encode it as %23"),
        (&format!("u:{}@/d", "p".repeat(4096)), "it is longer than 4096 bytes"),
        ("mysql://h/%zz", "a % is not followed by two hexadecimal digits: write it as %25"),
        ("mysql://h/%", "a % is not followed by two hexadecimal digits: write it as %25"),
        ("mysql://h/%ff", "what is percent-encoded is not UTF-8"),
        ("u@tcp(h)/d\0", "it has a zero character"),
        ("mysql://u@h/d?socket=%00hats", "the path of a socket begins with a /"),
        ("mysql://u@h/d?socket=/s%00", "it has a control character"),
        ("mysql://u@h/d%00", "it has a control character"),
    ] {
        assert_eq!(said(dsn, "mysql"), expected, "{dsn}");
    }
}

#[test]
fn postgres_is_read_in_both_forms() {
    for (dsn, expected) in [
        ("postgres://user:pw@db.example.org:5433/app", "user:pw@db.example.org:5433/app"),
        ("postgresql://user@h", "user:@h:5432/user"),
        (
            "postgres://u:p%2Fw@h/d?sslmode=verify-full&sslrootcert=/ca.pem",
            "u:p/w@h:5432/d VerifyName /ca.pem",
        ),
        ("postgres://u@h/d?sslmode=require&sslrootcert=/ca.pem", "u:@h:5432/d VerifyAuthority /ca.pem"),
        ("postgres://u@[::1]:9/d", "u:@[::1]:9/d"),
        ("postgres://u@%2Frun%2Fpostgresql:9/d", "u:@/run/postgresql/.s.PGSQL.9/d"),
        ("postgres:///d?host=/run/pg&user=u", "u:@/run/pg/.s.PGSQL.5432/d"),
        ("postgres://u@h/d?search_path=app&connect_timeout=3", "u:@h:5432/d within 3s search_path=app"),
        (
            "postgres://u@h/d?options=-c%20search_path%3Dapp%20--geqo=off",
            "u:@h:5432/d search_path=app geqo=off",
        ),
        ("postgres://u@h/d?application_name=me", "u:@h:5432/d as me"),
        ("postgres://u@h/d?connect_timeout=0", "u:@h:5432/d"),
        ("host=h user=u dbname=d", "u:@h:5432/d"),
        (
            "host=h port=9 user=u password='it''s' dbname=d",
            "there is something right behind the ' at the end of a value",
        ),
        (r"host=h user=u password='it\'s \\ x' dbname = d ", r"u:it's \ x@h:5432/d"),
        ("host = h\nuser\t= 'u' password='' dbname=''", "u:@h:5432/u"),
        (r"host=h user=a\ b", "a b:@h:5432/a b"),
        ("host=name hostaddr=10.0.0.1 user=u", "u:@name:5432=10.0.0.1/u"),
        ("hostaddr=10.0.0.1 user=u", "u:@10.0.0.1:5432=10.0.0.1/u"),
        ("host=/run/pg user=u port=9", "u:@/run/pg/.s.PGSQL.9/u"),
        (
            "user=u options='-c work_mem=4MB -cstatement_timeout=5000'",
            "u:@localhost:5432/u work_mem=4MB statement_timeout=5000",
        ),
        (r"user=u options='-c search_path=a\\ b'", "u:@localhost:5432/u search_path=a b"),
        ("", "the user is missing"),
        ("host=h", "the user is missing"),
        ("postgres://h/d", "the user is missing"),
        (
            "user",
            "it is neither a URL, postgres://user:password@host/database, nor a list, host=… user=… dbname=…",
        ),
        ("host=h my user=u", "a parameter has no value; put a value with blanks in it between quotes"),
        ("user='u", "the ' at the end of a value is missing"),
        (r"user=u\", r"there is nothing behind the last \"),
        ("host=a,b user=u", "it names several hosts, and one is possible"),
        ("postgres://u@a,b/d", "it names several hosts, and one is possible"),
        ("host=h user=u port=x", "the port is no number from 0 to 65535"),
        ("user=u sslmode=maybe", "sslmode is one of disable, allow, prefer, require, verify-ca, verify-full"),
        ("postgres://u%0d%0aFLUSHALL%0d%0a@h/d", "it has a control character"),
        ("postgres://u@h/d?application_name=%0a", "it has a control character"),
        ("user=u options=-x", "options are written as -c name=value"),
        ("user=u options='-c a'", "options are written as -c name=value"),
        ("user=u a-b=c", "the name of a parameter is no name"),
        (
            "postgres://u:1/2@h/d",
            "there is an @ behind the first /: percent-encode a / in the password as %2F",
        ),
        (
            "postgres://u:p/w@h/d",
            "it is no URL such as driver://user:password@host:port/database; percent-encode special characters",
        ),
    ] {
        assert_eq!(said(dsn, "postgres"), expected, "{dsn}");
    }
}

#[test]
fn sqlite_is_a_path_or_memory() {
    let file = |path: &str, mode| format!("{:?}", Sqlite::File { path: path.to_owned(), mode });
    for (dsn, expected) in [
        (":memory:", "Memory".to_owned()),
        ("sqlite::memory:", "Memory".to_owned()),
        ("sqlite://:memory:", "Memory".to_owned()),
        ("file:x?mode=memory", "Memory".to_owned()),
        ("a.db", file("a.db", FileMode::Create)),
        ("sub/a b%20?.db", file("sub/a b%20?.db", FileMode::Create)),
        ("sqlite:a%20b.db?mode=ro", file("a b.db", FileMode::Read)),
        ("sqlite://sub/a.db?mode=rw", file("sub/a.db", FileMode::Write)),
        ("sqlite:///abs/a.db", file("/abs/a.db", FileMode::Create)),
        ("file:a.db?mode=rwc", file("a.db", FileMode::Create)),
        ("", "the path of the file is missing; :memory: is a database without one".to_owned()),
        ("file:?mode=ro", "the path of the file is missing; :memory: is a database without one".to_owned()),
        ("file:a.db?vfs=unix-none", "the one parameter there is is mode: ro, rw, rwc or memory".to_owned()),
        ("file:a.db?cache=shared", "the one parameter there is is mode: ro, rw, rwc or memory".to_owned()),
    ] {
        assert_eq!(said(dsn, "sqlite"), expected, "{dsn}");
    }
}

#[test]
fn other_drivers_are_unknown() {
    assert!(parse("x", "oracle").is_none());
    assert!(parse("x", "").is_none());
}

#[test]
fn a_password_is_not_printed() {
    let target = parse("user:secret@tcp(h:1)/d", "mysql").unwrap().unwrap();
    assert!(!format!("{target:?}").contains("secret"));
}

proptest! {
    #[test]
    fn a_dsn_in_the_form_of_go_says_what_it_was_made_of(
        user in "[a-zA-Z0-9_.-]{1,12}",
        password in "[^\0]{0,20}",
        host in "[a-z0-9.-]{1,20}",
        port in any::<u16>(),
        database in "[a-zA-Z0-9_-]{0,12}",
    ) {
        let dsn = format!("{user}:{password}@tcp({host}:{port})/{database}");
        let Target::MySql(mysql) = parse(&dsn, "mysql").unwrap().unwrap() else { panic!("{dsn}") };
        prop_assert_eq!(mysql.login.user, user);
        prop_assert_eq!(mysql.login.password.reveal(), password);
        prop_assert_eq!(mysql.login.place, Place::Tcp { host, address: None, port });
        prop_assert_eq!(mysql.login.database.unwrap_or_default(), database);
    }

    #[test]
    fn a_url_says_what_it_was_made_of(
        user in "\\PC{1,8}",
        password in "[^\0]{1,12}",
        database in "[^/@.\\pC]{1,8}",
        port in 1..=u16::MAX,
    ) {
        let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let rest = format!("{}:{}@h:{port}/{}", encode(&user), encode(&password), encode(&database));
        for (scheme, driver) in [("mysql", "mysql"), ("postgres", "postgres")] {
            let target = parse(&format!("{scheme}://{rest}"), driver).unwrap().unwrap();
            let login = match target {
                Target::MySql(mysql) => mysql.login,
                Target::Postgres(postgres) => postgres.login,
                Target::Sqlite(_) => panic!("{rest}"),
            };
            prop_assert_eq!(&login.user, &user);
            prop_assert_eq!(login.password.reveal(), &password);
            prop_assert_eq!(login.database.as_deref(), Some(database.as_str()));
            prop_assert_eq!(login.place, Place::Tcp { host: "h".to_owned(), address: None, port });
        }
    }

    #[test]
    fn a_list_says_what_it_was_made_of(user in "\\PC{1,8}", password in "[^\0]{0,12}", blank in "[ \t\n]{0,3}") {
        let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
        let dsn = format!("user{blank}={blank}{} password={blank}{}{blank}", quote(&user), quote(&password));
        let Target::Postgres(postgres) = parse(&dsn, "postgres").unwrap().unwrap() else { panic!("{dsn}") };
        prop_assert_eq!(postgres.login.user, user);
        prop_assert_eq!(postgres.login.password.reveal(), password);
    }

    /// No error has a part of the DSN in it, whatever is wrong with it.
    #[test]
    fn no_error_repeats_the_dsn(before in "[a-z:/@?=&()'% ]{0,12}", behind in "[a-z:/@?=&()'% ]{0,12}") {
        let secret = "Z9Q7";
        let dsn = format!("{before}{secret}{behind}");
        for driver in ["mysql", "postgres", "sqlite"] {
            if let Err(malformed) = parse(&dsn, driver).unwrap() {
                prop_assert!(!malformed.to_string().contains(secret));
            }
        }
    }

    #[test]
    fn any_text_can_be_read_as_a_dsn(dsn in any::<String>()) {
        for driver in ["mysql", "postgres", "sqlite"] {
            for prefix in ["", "mysql://", "postgres://", "u@tcp(", "file:", "host=h "] {
                let _ = parse(&format!("{prefix}{dsn}"), driver);
            }
        }
    }
}
