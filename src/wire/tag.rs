//! Message types by direction, named as in the documentation's "Message Formats".
//!
//! The same byte means different messages in the two directions (`E` is Execute and ErrorResponse), so there are two
//! types. A type that this version does not know has a name too: it passes.

macro_rules! tags {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $byte:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* #[doc = concat!("`", stringify!($byte), "`")] $variant,)*
            /// A message type that this version of pgidle does not know.
            Unknown(u8),
        }

        #[expect(clippy::indexing_slicing, reason = "there is a place for every byte")]
        impl $name {
            /// Every byte's, so that none is looked for: a message is asked for its type several times.
            const OF: [Self; 256] = {
                let mut tags = [Self::Unknown(0); 256];
                let mut byte = u8::MAX;
                loop {
                    tags[byte as usize] = match byte {
                        $($byte => Self::$variant,)*
                        other => Self::Unknown(other),
                    };
                    if byte == 0 {
                        break tags;
                    }
                    byte -= 1;
                }
            };
        }

        #[expect(clippy::indexing_slicing, reason = "there is a place for every byte")]
        impl From<u8> for $name {
            fn from(byte: u8) -> Self {
                Self::OF[usize::from(byte)]
            }
        }

        impl From<$name> for u8 {
            fn from(tag: $name) -> Self {
                match tag {
                    $($name::$variant => $byte,)*
                    $name::Unknown(other) => other,
                }
            }
        }
    };
}

tags! {
    /// Types of the messages that a client sends.
    FrontendTag {
        Bind = b'B',
        Close = b'C',
        CopyData = b'd',
        CopyDone = b'c',
        CopyFail = b'f',
        Describe = b'D',
        Execute = b'E',
        Flush = b'H',
        FunctionCall = b'F',
        Parse = b'P',
        /// PasswordMessage, SASLInitialResponse, SASLResponse and GSSResponse share it.
        Password = b'p',
        Query = b'Q',
        Sync = b'S',
        Terminate = b'X',
    }
}

tags! {
    /// Types of the messages that a server sends.
    BackendTag {
        Authentication = b'R',
        BackendKeyData = b'K',
        BindComplete = b'2',
        CloseComplete = b'3',
        CommandComplete = b'C',
        CopyBothResponse = b'W',
        CopyData = b'd',
        CopyDone = b'c',
        CopyInResponse = b'G',
        CopyOutResponse = b'H',
        DataRow = b'D',
        EmptyQueryResponse = b'I',
        ErrorResponse = b'E',
        FunctionCallResponse = b'V',
        NegotiateProtocolVersion = b'v',
        NoData = b'n',
        NoticeResponse = b'N',
        NotificationResponse = b'A',
        ParameterDescription = b't',
        ParameterStatus = b'S',
        ParseComplete = b'1',
        PortalSuspended = b's',
        ReadyForQuery = b'Z',
        RowDescription = b'T',
    }
}

impl BackendTag {
    /// Whether it may come at any time, and answers nothing ("Asynchronous Operations").
    pub fn is_asynchronous(self) -> bool {
        matches!(
            self,
            Self::NoticeResponse | Self::NotificationResponse | Self::ParameterStatus
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_round_trip() {
        for byte in u8::MIN..=u8::MAX {
            assert_eq!(u8::from(FrontendTag::from(byte)), byte);
            assert_eq!(u8::from(BackendTag::from(byte)), byte);
        }
    }
}
