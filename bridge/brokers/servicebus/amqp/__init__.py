"""Messages in the form of AMQP: values, sections, and conversion from and to messages of the bridge. Pure."""
